"""Times every implementation of attention, forward and backward, alone. Run by :mod:`benchmarks.accelerator.measure`."""

import dataclasses
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import cases, timing
from distill.data.packing import Layout
from distill.model.attention import Attention, PositionBias, Segments, by_position

Inputs = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The attention of one layer: its kind, rows and heads, and the set whose packed windows it attends in."""

    kind: str
    name: str
    rows: int
    heads: int

    def inputs(self, data: Path) -> Inputs:
        """Random activations of queries and keys, the bias, and the segments of real packed windows."""
        layout = Layout(self.rows, *cases.LENGTHS[self.name])
        arrays = next(cases.batches(cases.read_rows(data / "rows.npz", self.name), layout)).arrays
        encoder, decoder = arrays["encoder_segment_ids"], arrays["decoder_segment_ids"]
        segments = {"encoder": (encoder, encoder), "decoder": (decoder, decoder), "cross": (decoder, encoder)}
        query, key = segments[self.kind]
        rng, width = np.random.default_rng(0), self.heads * 64

        def random(*shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
            return jnp.asarray(rng.normal(size=shape), dtype)

        x = random(self.rows, query.shape[1], width)
        attended = x if self.kind != "cross" else random(self.rows, key.shape[1], width)
        bias = None if self.kind == "cross" else random(self.heads, query.shape[1] + key.shape[1], dtype=jnp.float32)
        return x, attended, bias, jnp.asarray(query), jnp.asarray(key)


def program(shape: Shape, kernel: str, inputs: Inputs) -> tuple[Any, Any]:
    """The layer's loss and gradients, projections included, lowered for ``inputs``; and its parameters."""
    layer = Attention(shape.heads, 64, shape.heads * 64, 0.1, jnp.bfloat16, kernel.split("/")[0])
    x, query = inputs[0], inputs[3]

    def output(
        params: Any, x: jax.Array, attended: jax.Array, bias: Any, query: jax.Array, key: jax.Array
    ) -> jax.Array:
        both = None
        if bias is not None:
            both = PositionBias(by_position(bias, query.shape[1], key.shape[1])[None], bias[None])
        other = x if shape.kind != "cross" else attended
        causal = shape.kind == "decoder"
        mixed = layer.apply(
            {"params": params},
            x,
            other,
            Segments(query, key),
            both,
            causal=causal,
            deterministic=False,
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.sum(jnp.square(mixed.astype(jnp.float32)))

    plain = Attention(shape.heads, 64, shape.heads * 64, 0.1, jnp.bfloat16, "xla")
    variables = jax.jit(lambda: plain.init(jax.random.key(0), x[:1], x[:1], Segments(query[:1], query[:1])))()
    params = nn.unbox(variables)["params"]
    wanted = (0, 1, 2) if shape.kind == "cross" else (0, 1, 3)
    call = jax.jit(jax.value_and_grad(output, argnums=wanted))
    return call.lower(params, *inputs), params


def main() -> None:
    parser = cases.parser(__doc__)
    parser.add_argument("--kernels", default="xla,cudnn,triton")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    shapes = [
        Shape(kind, name, options.rows, options.heads)
        for name in ("svamp", "cqa")
        for kind in ("encoder", "decoder", "cross")
    ]
    results: list[dict[str, Any]] = []
    work: list[tuple[Shape, str, Inputs, Any]] = []
    for shape in shapes:
        inputs = shape.inputs(options.data)
        for kernel in options.kernels.split(","):
            work.append((shape, kernel, inputs, program(shape, kernel, inputs)))

    def compiled(item: tuple[Shape, str, Inputs, Any]) -> Any:
        try:
            return item[3][0].compile()
        except Exception as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        executables = list(pool.map(compiled, work))
    plain: dict[Shape, Any] = {}
    for (shape, kernel, inputs, (_, params)), executable in zip(work, executables):
        row: dict[str, Any] = {**dataclasses.asdict(shape), "kernel": kernel}
        try:
            if isinstance(executable, Exception):
                raise executable
            call = functools.partial(executable, params, *inputs)
            found = jax.block_until_ready(call())
            plain.setdefault(shape, found)
            pairs = zip(jax.tree.leaves(found[1]), jax.tree.leaves(plain[shape][1]), strict=True)
            row["gradients_against_first"] = [
                float(jnp.linalg.norm((a - b).astype(jnp.float32)) / jnp.linalg.norm(b.astype(jnp.float32)))
                for a, b in pairs
            ]
            row["milliseconds"] = timing.summary(
                timing.rounds(call, jax.block_until_ready, options.rounds, options.calls)
            )
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:600]
        results.append(row)
        print(json.dumps(row), flush=True)
    (options.out / "attention.json").write_text(json.dumps(results, indent=1) + "\n")
    raise SystemExit(any("error" in row for row in results))


if __name__ == "__main__":
    main()
