"""Dense layers and their gradients against plain einsums, on one device and on meshes."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from abstract_meshes import mesh_of
from jax.sharding import NamedSharding

from distill.sharding import partitioning
from distill.sharding.dense import Dense, copies_by_shard, jointly, product, sum_over_rows, written

ROWS, LENGTH, INPUTS, FEATURES = 16, 6, 24, 32
# Subscripts of x, of the kernel and of the product, and the kernel's logical axes.
FORMS = {
    "embed first": ("bld", "df", "blf", ("embed", "mlp")),
    "embed innermost": ("bld", "df", "blf", ("mlp", "embed")),
    "several": ("bld", "ndf", "nblf", (None, "embed", "joined_kv")),
    "copies by shard": ("sbld", "ndsf", "nblsf", (None, "embed", "joined_kv", None)),
}
SIZES = {"b": ROWS, "l": LENGTH, "d": INPUTS, "f": FEATURES, "n": 3, "s": 2}


def array(letters, seed):
    shape = [SIZES[letter] for letter in letters]
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@dataclasses.dataclass
class Compiled:
    value: np.ndarray
    gradients: tuple
    text: str


def differentiated(form, mesh):
    """The product, the gradients of a weighted sum of it, and the program, on a mesh."""
    of_x, of_kernel, of_out, axes = FORMS[form]
    x, kernel, weights = array(of_x, 0), array(of_kernel, 1), array(of_out, 2)
    devices = partitioning.MeshConfig(*mesh).build()
    spec = partitioning.spec_for(axes, kernel.shape, devices, partitioning.DEFAULT_RULES)
    split = NamedSharding(devices, spec)

    def weighted(x, kernel):
        kernels = tuple(kernel) if of_kernel[0] == "n" else (kernel,)
        out = product(f"{of_x},{of_kernel}->{of_out}", axes, x, kernels)
        return jnp.sum(out * weights), out

    with jax.set_mesh(devices), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        run = jax.jit(
            jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True), out_shardings=((None, None), (None, split))
        )
        compiled = run.lower(x, jax.device_put(kernel, split)).compile()
        (_, out), gradients = compiled(x, jax.device_put(kernel, split))
    return Compiled(np.asarray(out), gradients, compiled.as_text())


@pytest.mark.parametrize("mesh", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2)])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_equals_that_of_einsum(form, mesh):
    of_x, of_kernel, of_out, _ = FORMS[form]
    x, kernel, weights = array(of_x, 0), array(of_kernel, 1), array(of_out, 2)
    got = differentiated(form, mesh)
    np.testing.assert_allclose(got.value, np.einsum(f"{of_x},{of_kernel}->{of_out}", x, kernel), rtol=1e-5, atol=1e-5)
    wanted = (
        np.einsum(f"{of_out},{of_kernel}->{of_x}", weights, kernel),
        np.einsum(f"{of_x},{of_out}->{of_kernel}", x, weights),
    )
    for have, want in zip(got.gradients, wanted, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["embed first", "embed innermost", "several"])
def test_sharded_gradients_use_one_reduce_scatter_not_along_the_innermost_dimension(form):
    text = differentiated(form, (1, 8, 1)).text
    found = re.findall(r"= (\w+\[[\d,]*\])\S* reduce-scatter\(.*dimensions={(\d)}", text)
    assert len(found) == 1
    shape, dimension = found[0]
    assert int(dimension) < shape.count(",")
    assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1  # that of the value


def test_replicated_gradients_use_one_all_reduce():
    text = differentiated("several", (8, 1, 1)).text
    sums = [line for line in text.splitlines() if " all-reduce(" in line]
    assert sum(f"f32[3,{INPUTS},{FEATURES}]" in line for line in sums) == 1
    assert "reduce-scatter(" not in text


def test_over_both_axes_only_scattered_shards_are_all_reduced():
    text = differentiated("embed first", (2, 4, 1)).text
    shard = f"f32[{INPUTS // 4},{FEATURES}]"
    assert len(re.findall(rf"= {re.escape(shard)}\S* reduce-scatter\(", text)) == 1
    reduced = re.findall(r"= (f32\[[\d,]*\])\S* all-reduce(?:-start)?\(", text)
    assert sorted(reduced) == sorted([shard, "f32[]"])


def test_a_rule_that_mixes_row_axes_with_other_axes():
    rules = [("embed", ("fsdp", "model")), *(rule for rule in partitioning.DEFAULT_RULES if rule[0] != "embed")]
    x, d_out = array("bld", 0), array("blf", 1)
    with jax.set_mesh(partitioning.MeshConfig(1, 4, 2).build()), nn.logical_axis_rules(rules):
        got = jax.jit(lambda x, d: sum_over_rows("bld,blf->df", ("embed", None), x, d))(x, d_out)
    np.testing.assert_allclose(got, np.einsum("bld,blf->df", x, d_out), rtol=1e-5, atol=1e-4)


def test_gradients_have_the_dtype_of_their_arguments():
    x, kernel = array("bld", 0).astype(jnp.bfloat16), array("ndf", 1).astype(jnp.bfloat16)
    with (
        jax.set_mesh(partitioning.MeshConfig(2, 4, 1).build()),
        nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)),
    ):
        run = jax.jit(
            jax.grad(
                lambda x, kernels: jnp.sum(
                    product("bld,ndf->nblf", (None, "embed", "mlp"), x, kernels).astype(jnp.float32) ** 2
                ),
                argnums=(0, 1),
            )
        )
        d_x, d_kernels = run(x, tuple(kernel))
    assert d_x.dtype == jnp.bfloat16
    assert [one.dtype for one in d_kernels] == [jnp.bfloat16] * 3


def test_the_backward_pass_saves_kernels_not_their_stack():
    x, kernels = array("bld", 0), tuple(array("ndf", 1))
    _, backward = jax.vjp(lambda x, k: product("bld,ndf->nblf", (None, "embed", "mlp"), x, k), x, kernels)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward)]
    assert sorted(kept) == sorted([x.shape, *(kernel.shape for kernel in kernels)])


@pytest.mark.parametrize(
    ("training", "platform", "stacked"),
    [(True, "tpu", True), (False, "tpu", False), (True, "gpu", False), (True, "cpu", False), (False, "cpu", False)],
)
def test_only_training_on_tpus_stacks_kernels(training, platform, stacked, monkeypatch):
    monkeypatch.setattr(partitioning, "platform", lambda: platform)
    x, module = array("bld", 0), Two(together=training)
    params = module.init(jax.random.key(0), x)
    program = str(jax.make_jaxpr(lambda x: module.apply(params, x))(x))
    assert (f"[2,{INPUTS},{FEATURES}]" in program) == stacked
    assert program.count("dot_general") == (1 if stacked else 2)
    out = module.apply(params, x)
    assert isinstance(out, tuple) != stacked
    assert [part.shape for part in out] == [(ROWS, LENGTH, FEATURES)] * 2


def test_a_mesh_of_tpus_stacks_kernels_on_any_machine():
    """The programs that ``distill precompile`` compiles on a machine without a TPU are those of TPUs."""
    mesh = mesh_of("tpu")
    x, module = array("bld", 0), Two(together=True)
    params = nn.meta.unbox(module.init(jax.random.key(0), x))
    assert f"[2,{INPUTS},{FEATURES}]" not in str(jax.make_jaxpr(module.apply)(params, x))
    with jax.sharding.use_abstract_mesh(mesh):
        assert f"[2,{INPUTS},{FEATURES}]" in str(jax.make_jaxpr(module.apply)(params, x))


def test_rows_that_the_mesh_does_not_divide_are_summed():
    x, d_out = array("bld", 0)[:3], array("blf", 1)[:3]
    with (
        jax.set_mesh(partitioning.MeshConfig(2, 2, 2).build()),
        nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)),
    ):
        got = jax.jit(lambda x, d: sum_over_rows("bld,blf->df", ("embed", "mlp"), x, d))(x, d_out)
    np.testing.assert_allclose(got, np.einsum("bld,blf->df", x, d_out), rtol=1e-5, atol=1e-5)


class Two(nn.Module):
    """Two products of one array, joint or separate."""

    together: bool

    @nn.compact
    def __call__(self, x):
        pair = [Dense(FEATURES, ("embed", "joined_kv"), jnp.dtype("float32"), name=name) for name in ("one", "two")]
        return jointly(pair, copies_by_shard(x, FEATURES) if self.together else x, training=self.together)


@pytest.mark.parametrize(
    ("mesh", "platform"), [((1, 1, 1), "tpu"), ((2, 2, 2), "tpu"), ((1, 1, 1), "gpu"), ((2, 2, 2), "gpu")]
)
def test_joint_products_equal_separate_products(mesh, platform, monkeypatch):
    monkeypatch.setattr(partitioning, "platform", lambda: platform)
    x = array("bld", 0)

    def loss(params, module):
        return sum(jnp.sum(part**2) for part in module.apply(params, x))

    params = Two(together=False).init(jax.random.key(0), x)
    together = jax.tree.map(jnp.shape, nn.meta.unbox(Two(together=True).init(jax.random.key(0), x)))
    assert together == jax.tree.map(jnp.shape, nn.meta.unbox(params))
    params = nn.meta.unbox(params)
    with jax.set_mesh(partitioning.MeshConfig(*mesh).build()), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        apart, joined = (
            jax.jit(jax.value_and_grad(functools.partial(loss, module=Two(together=t))))(params) for t in (False, True)
        )
    jax.tree.map(lambda have, want: np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-4), joined, apart)


def test_an_input_is_written_once_and_its_values_and_gradients_stay():
    """On one CPU, a loop that never runs separates a layer's input from the transpose that its gradient needs."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64, 256)), jnp.float32).at[0, 0, 0].set(jnp.nan)
    weights = jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape)

    def run(through):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.nan_to_num(through(jnp.tanh(x))) * weights)))

    for one, other in zip(run(written)(x), run(lambda x: x)(x), strict=True):
        np.testing.assert_array_equal(one, other)
    assert " while(" in run(written).lower(x).compile().as_text()
    assert "while" not in jax.jit(written).lower(x).as_text()  # not differentiated
    mesh = partitioning.MeshConfig(2).build(jax.devices()[:2])
    with jax.set_mesh(mesh):
        assert "while" not in jax.jit(jax.grad(lambda x: written(x).sum())).lower(x).as_text()
