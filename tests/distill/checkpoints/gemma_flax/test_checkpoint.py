"""T5Gemma checkpoints of google-deepmind/gemma: the parameters of the same weights in a Hugging Face folder; damage."""

import dataclasses
import functools
import logging
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from distill.checkpoints import conversion, gemma_flax, huggingface, initial
from distill.checkpoints.weights import Weights
from distill.model.network import ModelInputs, T5Config
from distill.model.networks import network_of
from distill.model.parameters import unstack_layers
from tests.distill import gemma_models
from tests.distill.checkpoints import written
from tests.distill.checkpoints.gemma_flax.written import copied, flat_tree, save, tree_of

# What a model is, and the stacks whose gates are transposed: grouped key heads; as many key heads as query heads; another
# encoder, of such heads, and one key head in the decoder.
MODELS = {
    "grouped": ("t5gemma", {}, ()),
    "ungrouped": ("t5gemma", {"num_key_value_heads": 4}, ("encoder", "decoder")),
    "unbalanced": ("t5gemma_unbalanced", {}, ("encoder",)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model's tree, its folder here, and configuration and parameters from transformers' folder of the same weights."""

    @functools.cache
    def model(name):
        family, changes, transposed = MODELS[name]
        torch_model = gemma_models.build(family, **changes)
        root = tmp_path_factory.mktemp(name)
        config, params = huggingface.load_pretrained(gemma_models.save(torch_model, root / "hf"))
        params["decoder"].pop("logits_dense", None)  # files of this layout have no output kernel
        tree = tree_of(torch_model, transposed)
        config = dataclasses.replace(config, logits_via_embedding=True)
        return tree, save(tree, root / "flax"), config, params

    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_are_those_of_the_same_weights_in_a_hugging_face_folder(name, models):
    _, folder, config, wanted = models(name)
    written.same(gemma_flax.load_params(folder, config), wanted)
    stacked = dataclasses.replace(config, scan_layers=True)
    written.same(unstack_layers(gemma_flax.load_params(folder, stacked), stacked)[0], wanted)


def test_other_trees_of_the_same_parameters(models, tmp_path):
    """Flat names; a step of Kauldron's trainer, of which the parameters alone are read; bfloat16, a folder per array."""
    tree, _, config, wanted = models("ungrouped")
    written.same(gemma_flax.load_params(save(flat_tree(tree), tmp_path / "flat"), config), wanted)
    folders = save(flat_tree(tree), tmp_path / "folders", ocdbt=False)
    written.same(gemma_flax.load_params(folders, config), wanted)
    trained = {"params": tree, "opt_state": {"mu": tree}, "collections": {}, "step": np.asarray(7)}
    save(trained, tmp_path / "ckpt_7" / "default")
    for name in ("mu", "step"):  # never opened
        assert any(name in path for path in conversion.orbax_tree.paths(tmp_path / "ckpt_7" / "default"))
    written.same(gemma_flax.load_params(tmp_path / "ckpt_7", config), wanted)
    half = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), tree)
    got = gemma_flax.load_params(save(half, tmp_path / "half"), config)
    written.same(got, jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype(np.float32), wanted))


def test_a_run_starts_from_it(models, caplog):
    _, folder, config, wanted = models("grouped")
    with caplog.at_level(logging.INFO):
        written.same(initial.load(str(folder), config, None), wanted)
    (line,) = [record.getMessage() for record in caplog.records if hasattr(record, "notice")]
    assert line.startswith(
        f"starting from the Gemma Flax checkpoint {folder}: vocabulary 99, width 32, 2 + 2 layers, tied"
    )


def test_it_is_converted(models, tmp_path):
    """To a folder of Hugging Face's, with the settings of the published models."""
    _, folder, config, wanted = models("unbalanced")
    conversion.convert(folder, tmp_path / "hf", "hf")
    got_config, got = huggingface.load_pretrained(tmp_path / "hf")
    written.same(got, wanted)
    stacks = {
        stack: dataclasses.replace(getattr(config, stack), sliding_window=4096, query_pre_attn_scalar=float(width))
        for stack, width in (("encoder", 8), ("decoder", 6))
    }
    assert got_config == dataclasses.replace(config, attention_logit_cap=50.0, final_logit_cap=30.0, **stacks)


def test_padding_rows_of_published_tables_are_not_read(models, tmp_path, caplog):
    tree, _, config, wanted = models("grouped")
    tables = {}
    padded = copied(tree)
    for stack, seed in (("encoder", 0), ("decoder", 1)):
        rows = np.random.default_rng(seed).normal(size=(256_128, 32)).astype(ml_dtypes.bfloat16)
        padded[stack]["embedder"] = {"input_embedding": rows}
        tables[stack] = rows[:256_000].astype(np.float32)
    folder = save(padded, tmp_path / "padded")
    checkpoint, found = gemma_flax.open_source(folder)
    assert found.vocab_size == 256_000
    config = dataclasses.replace(config, vocab_size=256_000)
    with caplog.at_level(logging.INFO):
        got = gemma_flax.load_params(folder, config)
    assert f"{folder}: 128 padding rows of each token table are not read" in caplog.text
    np.testing.assert_array_equal(got["token_embedder"]["embedding"], tables["encoder"])
    np.testing.assert_array_equal(got["decoder_token_embedder"]["embedding"], tables["decoder"])
    written.same(got["encoder"], wanted["encoder"])
    # A process reads its shard of a table, up to the last row.
    last = Weights(checkpoint, found).read("token_embedder/embedding", (slice(255_000, None), slice(8, 16)))
    np.testing.assert_array_equal(last, tables["encoder"][255_000:, 8:16])
    whole = dataclasses.replace(config, vocab_size=256_128)
    assert gemma_flax.load_params(folder, whole)["token_embedder"]["embedding"].shape == (256_128, 32)
    fewer = dataclasses.replace(config, vocab_size=255_900)
    with pytest.raises(ValueError, match=r"input_embedding: checkpoint \[256128, 32\], configuration \[255900, 32\]"):
        gemma_flax.load_params(folder, fewer)


def test_a_checkpoint_that_does_not_fit_names_every_difference(models, tmp_path):
    tree, _, config, _ = models("grouped")
    damaged = copied(tree)
    del damaged["encoder"]["layer_1"]["mlp"]["linear"]
    damaged["decoder"]["layer_0"]["cross_attn"]["bias"] = {"w": np.zeros(3, np.float32)}
    damaged["decoder"]["final_norm"]["scale"] = np.zeros(3, np.float32)
    damaged["encoder"]["final_norm"]["scale"] = np.zeros(32, np.int32)
    folder = save(damaged, tmp_path / "damaged")
    for load in (lambda: gemma_flax.load_params(folder, config), lambda: initial.load(str(folder), config, None)):
        with pytest.raises(ValueError, match=r"damaged does not fit the configuration \(4 differences\)") as error:
            load()
        for line in (
            "encoder/layer_1/mlp/linear: checkpoint has none, configuration [48, 32]",
            "decoder/layer_0/cross_attn/bias/w: checkpoint [3], configuration has none",
            "decoder/final_norm/scale: checkpoint [3], configuration [32]",
            "encoder/final_norm/scale: checkpoint holds int32, expected float64, float32, bfloat16, float16",
        ):
            assert line in str(error.value)


def test_a_student_of_another_shape_is_refused(models):
    _, folder, config, _ = models("grouped")
    eight_heads = dataclasses.replace(config.encoder, num_heads=8, head_dim=4)  # kernels of the same size
    for changes, line in (
        (
            {"encoder": eight_heads},
            r"encoder/layer_0/attn/q_einsum/w: checkpoint \[4, 32, 8\], configuration \[8, 32, 4\]",
        ),
        ({"logits_via_embedding": False}, "output kernel: checkpoint has none"),
        (
            {"decoder": dataclasses.replace(config.decoder, num_layers=3)},
            "decoder/layer_2/mlp/linear: checkpoint has none",
        ),
        ({"vocab_size": 100}, r"encoder/embedder/input_embedding: checkpoint \[99, 32\], configuration \[100, 32\]"),
    ):
        with pytest.raises(ValueError, match=line):
            initial.load(str(folder), dataclasses.replace(config, **changes), None)


def test_files_that_are_missing_or_cut_off(models, tmp_path):
    _, folder, config, _ = models("grouped")
    for number, change in enumerate(
        (
            lambda root: (root / "manifest.ocdbt").unlink(),
            lambda root: (root / "_METADATA").write_text((root / "_METADATA").read_text()[:200]),
            lambda root: [file.write_bytes(file.read_bytes()[:40]) for file in root.rglob("d/*") if file.is_file()],
        )
    ):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(ValueError, match=r"cannot be opened|cannot be read|is not JSON"):
            initial.load(str(copy), config, None)
    copy = tmp_path / "without"
    shutil.copytree(folder, copy)
    (copy / "_METADATA").unlink()
    with pytest.raises(ValueError, match=r"is no checkpoint: expected .* T5Gemma's Flax files \(_METADATA\)"):
        initial.load(str(copy), config, None)
    with pytest.raises(FileNotFoundError, match="is no checkpoint of google-deepmind/gemma"):
        gemma_flax.read_tensors(copy)


def test_other_families_are_named(models, tmp_path):
    tree, folder, config, _ = models("grouped")
    decoder_only = save(tree["encoder"], tmp_path / "gemma")
    for path in (decoder_only, save(flat_tree(tree["encoder"]), tmp_path / "gemma_flat")):
        with pytest.raises(
            ValueError, match="is a decoder-only Gemma checkpoint; students are encoder-decoder networks"
        ):
            initial.load(str(path), config, None)
    t5 = T5Config(20, 8, 2, 4, 12, 2, 3)
    with pytest.raises(ValueError, match="is a T5Gemma network, the student is a T5: take a model file of T5Gemma"):
        initial.load(str(folder), t5, None)
    orbax = written.write_source(tmp_path / "t5x", t5, written.random_params(t5), "t5x_orbax")
    with pytest.raises(ValueError, match="is a T5 network, the student is a T5Gemma: take a model file of T5 "):
        initial.load(str(orbax), config, None)
    with pytest.raises(ValueError, match="T5X has no T5Gemma; write it as 'hf' or 'distill'"):
        conversion.convert(folder, tmp_path / "out", "t5x")


def test_a_name_outside_of_the_folder_is_refused(models, tmp_path):
    _, folder, config, _ = models("grouped")
    shutil.copytree(folder, tmp_path / "copy")
    metadata = tmp_path / "copy" / "_METADATA"
    metadata.write_text(metadata.read_text().replace('"final_norm"', '"../../final_norm"'))
    with pytest.raises(ValueError, match="expected a name inside the checkpoint's folder; got '\\.\\.'"):
        initial.load(str(tmp_path / "copy"), config, None)


def test_logits_are_those_of_the_original_code(tmp_path):
    """Where google-deepmind/gemma is installed: past the window, padded, and packed into one row."""
    original = pytest.importorskip("gemma.research.t5gemma.t5gemma", reason="google-deepmind/gemma is not installed")
    from gemma.research.t5gemma import modules

    def stack(layers, width, transposed, **options):
        kinds = (modules.AttentionType.LOCAL_SLIDING, modules.AttentionType.GLOBAL) * (layers // 2)
        return modules.TransformerConfig(
            num_layers=layers, num_embed=72, embed_dim=width, hidden_dim=40, num_heads=4, head_dim=8, num_kv_heads=2,
            final_logit_softcap=30.0, attention_types=kinds, use_post_attn_norm=True, use_post_ffw_norm=True,
            attn_logits_soft_cap=50.0, sliding_window_size=6, transpose_gating_einsum=transposed, **options,
        )  # fmt: skip

    decoder = stack(2, 16, False, enable_cross_attention=True, kv_embed_dim=24)
    config = original.T5GemmaConfig(stack(4, 24, True, bidirectional=True), decoder)
    network = config.make("transformer", dtype=jnp.float32)
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(3, 64, (2, 12)), rng.integers(3, 64, (2, 10))
    inputs[1, 5:], targets[1, 4:], targets[:, 0] = 0, 0, 2
    given = {"target_tokens": jnp.asarray(targets), "input_tokens": jnp.asarray(inputs)}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), **given)["params"])
        params = jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), shapes)
        wanted = np.asarray(jax.jit(lambda params: network.apply({"params": params}, **given).logits)(params))

    folder = save(params, tmp_path / "original")
    _, found = gemma_flax.open_source(folder)
    # There, a window of w has w - 1 keys on each side of a query of the encoder.
    windows = {"encoder": 5, "decoder": 6}
    stacks = {name: dataclasses.replace(getattr(found, name), sliding_window=one) for name, one in windows.items()}
    student = dataclasses.replace(found, **stacks)
    ours = gemma_flax.load_params(folder, student)
    targets[:, 0] = 0
    apply = jax.jit(lambda inputs: network_of(student).apply({"params": ours}, inputs))
    got = np.asarray(apply(ModelInputs(jnp.asarray(inputs), jnp.asarray(targets))))
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(got[0], wanted[0], rtol=0.0, atol=1e-4)
    np.testing.assert_allclose(got[1, :4], wanted[1, :4], rtol=0.0, atol=1e-4)
    packed = ModelInputs(
        *(
            jnp.asarray(np.concatenate(parts)[None])
            for parts in ((inputs[0], inputs[1, :5]), (targets[0], targets[1, :4]))
        ),
        encoder_segment_ids=jnp.asarray([[1] * 12 + [2] * 5]),
        decoder_segment_ids=jnp.asarray([[1] * 10 + [2] * 4]),
    )
    got = np.asarray(apply(packed))[0]
    np.testing.assert_allclose(got, np.concatenate([wanted[0], wanted[1, :4]]), rtol=0.0, atol=1e-4)
