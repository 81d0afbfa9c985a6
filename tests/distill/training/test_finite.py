"""Arrays with nan or infinity are named before they are saved."""

import jax.numpy as jnp
import pytest

from distill.training import finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_array_the_step_and_the_remedy_are_named(bad):
    tree = {"encoder": {"kernel": jnp.ones((2, 3))}, "table": jnp.asarray([0.0, bad, 1.0])}
    with pytest.raises(FloatingPointError) as caught:
        finite.check(tree, 17, "the newest checkpoint is step 10", "float32")
    text = str(caught.value)
    assert text.startswith("table holds nan or infinity at step 17 (1 of 2 arrays)")
    assert "the newest checkpoint is step 10" in text and text.endswith(f"; {finite.REMEDY}")


def test_only_other_types_are_advised_to_use_float32():
    assert finite.remedy("float32") == finite.REMEDY
    assert finite.remedy("bfloat16") == f"{finite.REMEDY} or DTYPE=float32"


def test_the_first_of_several_is_named_by_its_path():
    bad = jnp.asarray([jnp.nan])
    with pytest.raises(FloatingPointError, match=r"^a/b holds .*\(2 of 3 arrays\)"):
        finite.check({"a": {"b": bad, "c": jnp.ones(1)}, "d": bad}, 1, "no checkpoint", "bfloat16")


def test_finite_and_integer_arrays_pass():
    finite.check({"w": jnp.full((2,), 3e38), "half": jnp.ones(2, jnp.bfloat16), "step": jnp.int32(3)}, 1, "", "float32")
    finite.check({"step": jnp.int32(3)}, 1, "", "float32")
    finite.check({}, 1, "", "float32")


def test_a_bfloat16_array_is_checked():
    with pytest.raises(FloatingPointError, match=r"^w "):
        finite.check({"w": jnp.asarray([jnp.inf], jnp.bfloat16)}, 1, "no checkpoint", "bfloat16")
