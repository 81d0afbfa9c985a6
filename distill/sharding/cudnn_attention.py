"""Attention for NVIDIA GPUs by cuDNN's fused kernels: no float32 logits or probabilities in the GPU's memory.

cuDNN adds one array to the logits. It holds the position bias, and a large negative number where query and key have
different segments. All layers of a stack have the same array, so the compiler makes it once per step. Dropout has one
draw per key for all queries, so scaling the values by it is exact, and cuDNN needs no dropout. cuDNN computes the
gradient of the bias in the dtype of the queries.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill.array_types import AnyArray

_DTYPES = (jnp.bfloat16, jnp.float16)


def why_not(
    query_length: int, key_length: int, head_dim: int, dtype: jax.typing.DTypeLike, platform: str
) -> str | None:
    """Returns why :func:`cudnn_attention` cannot compute these shapes on ``platform``, or None if it can.

    Args:
      query_length, key_length: positions per row.
      head_dim: width of one head.
      dtype: dtype of query, key and value.
      platform: as a device's ``platform``, for example ``gpu``.
    """
    if platform not in ("gpu", "cuda"):
        return f"cuDNN runs on NVIDIA GPUs, not on {platform}"
    if dtype not in _DTYPES:
        return f"cuDNN's attention computes in bfloat16 or float16, not in {jnp.dtype(dtype).name}"
    if query_length % 2 or key_length % 2:
        return f"cuDNN's gradient of a bias requires even lengths; got {query_length} queries and {key_length} keys"
    if head_dim % 8 or head_dim > 128:
        return f"cuDNN requires a head width that is a multiple of 8 and at most 128; got {head_dim}"
    return None


def cudnn_attention(
    query: Float[Array, "batch query heads kv"],
    key: Float[Array, "batch key heads kv"],
    value: Float[Array, "batch key heads kv"],
    bias: Float[Array, "heads query key"] | None,
    query_segments: Int[AnyArray, "batch query"],
    key_segments: Int[AnyArray, "batch key"],
    *,
    causal: bool,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch query heads kv"]:
    """Returns ``softmax(query · keyᵀ + bias) · value`` within segments, without the factor 1/√kv.

    Args:
      query, key, value: bfloat16 or float16.
      bias: float32, or None.
      query_segments, key_segments: int32; a query attends to keys with its own segment id, and padding (segment 0) to all.
      causal: whether a query attends only to keys at or before its own position.
      implementation: ``cudnn``, or ``xla`` for the same arrays through JAX's plain attention, for tests without a GPU.
    """
    # A query that sees no key would have a log-sum-exp near the masked logits, which float32 cannot resolve, and cuDNN's
    # gradients of it are wrong. Only padding has no key in its segment, and no result of padding is used: it sees all keys.
    same = query_segments[:, :, None] == key_segments[:, None, :]
    mask = (same | (query_segments == 0)[:, :, None])[:, None]
    added = None if bias is None else bias[None].astype(query.dtype)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.nn.dot_product_attention(
            query, key, value, bias=added, mask=mask, scale=1.0, is_causal=causal, implementation=implementation
        )
