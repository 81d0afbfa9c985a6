"""The annotations of shapes and dtypes in the numerical core are enforced while tests run."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from distill.sharding import embedding
from distill.training import losses

pytest.importorskip("beartype", reason="beartype, which checks annotations, is not installed")
FLOATS = jnp.ones((2, 3), jnp.float32)
IDS = jnp.ones((2, 3), jnp.int32)
COEFFICIENTS = (jnp.float32(1.0), jnp.float32(1.0))


def test_what_is_annotated_is_accepted():
    weights = losses.task_token_weights(FLOATS, IDS, COEFFICIENTS)
    np.testing.assert_allclose(weights, np.full((2, 3), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "ids"),
    [
        (FLOATS, jnp.ones((2, 4), jnp.int32)),  # another length
        (FLOATS[0], IDS[0]),  # no batch dimension
        (FLOATS, FLOATS),  # ids that are no integers
        (IDS, IDS),  # weights that are no floats
    ],
    ids=["length", "rank", "dtype of ids", "dtype of weights"],
)
def test_another_shape_or_dtype_is_refused(weights, ids):
    with pytest.raises(jaxtyping.TypeCheckError, match="task_token_weights"):
        losses.task_token_weights(weights, ids, COEFFICIENTS)


def test_a_dimension_has_one_size_in_all_arguments_and_results():
    table = jnp.ones((7, 4), jnp.float32)
    assert embedding.lookup(table, IDS, jnp.dtype("float32")).shape == (2, 3, 4)
    with pytest.raises(jaxtyping.TypeCheckError, match="lookup"):
        embedding.lookup(table, IDS[0], jnp.dtype("float32"))
