"""T5X's checkpoints without T5X: files written here by TensorStore, msgpack and Orbax; and damaged or hostile files."""

import dataclasses
import json
import shutil

import jax
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.checkpoints import arrays, orbax_tree, streamed_orbax, weights
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.t5x import index as t5x_index
from distill.checkpoints.weights import flatten
from distill.model.network import T5Config
from distill.model.parameters import init_params, param_logical_axes, param_shapes, stack_layers, unstack_layers
from distill.sharding import partitioning

PLAIN = T5Config(20, 8, 2, 4, 12, 2, 3)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_shapes(config))


def same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def in_layout(params, config, scan):
    """``params`` of ``config`` with layers stacked or not."""
    if config.scan_layers == scan:
        return params
    changed, _ = (stack_layers if scan else unstack_layers)(params, config)
    return jax.tree.map(np.asarray, changed)


def write_by_hand(folder, leaves, *, compressor, inline=(), dtype="float32", driver="gfile", dots=True):
    """A native checkpoint as T5X lays it out, written by TensorStore and msgpack alone."""
    folder.mkdir(parents=True)
    target = {}
    for name, array in leaves.items():
        if name in inline:
            target[name] = np.asarray(array)
            continue
        flat = "target." + name.replace("/", ".")
        metadata = {
            "shape": list(array.shape),
            "chunks": [max(1, n - 1) for n in array.shape],
            "compressor": compressor,
        }
        spec = {"driver": "zarr", "dtype": dtype, "kvstore": {"driver": "file", "path": f"{folder}/{flat}/"}}
        stored = tensorstore.open({**spec, "metadata": metadata}, create=True).result()
        stored.write(array.astype(stored.dtype.numpy_dtype)).result()
        target[name] = {
            "driver": "zarr",
            "dtype": dtype,
            "kvstore": {"driver": driver, "path": flat + ("/" if dots else "")},
            "metadata": metadata,
        }
    state = {"target": weights.unflatten(target), "state": {"step": np.int32(11)}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize({"version": 3, "optimizer": state}))
    return folder


@pytest.mark.parametrize("compressor", [{"id": "gzip", "level": 1}, {"id": "zlib", "level": 1}, None])
@pytest.mark.parametrize("scan", [False, True])
def test_reads_native_files(compressor, scan, tmp_path):
    config = dataclasses.replace(PLAIN, scan_layers=scan)
    params = random_params(config)
    folder = write_by_hand(
        tmp_path / "checkpoint_11",
        flatten(params),
        compressor=compressor,
        inline=("encoder/encoder_norm/scale", "decoder/relpos_bias/rel_embedding"),
        driver="gcs" if scan else "gfile",
        dots=scan,
    )
    same(t5x_checkpoints.load_params(folder, config), params)
    same(t5x_checkpoints.load_params(folder / "checkpoint", config), params)
    same(t5x_checkpoints.load_params(tmp_path, config), params)  # the newest in the folder of a run
    other = dataclasses.replace(config, scan_layers=not scan)
    same(t5x_checkpoints.load_params(folder, other), in_layout(params, config, not scan))
    opened = t5x_checkpoints.open_checkpoint(folder)
    assert opened.step == 11 and opened.scanned == scan
    assert weights.infer_config(opened) == config
    index = t5x_checkpoints.open_checkpoint(folder).infos()
    assert index["token_embedder/embedding"] == arrays.TensorInfo((20, 8), "float32")
    assert set(index) == set(flatten(params))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_floats_become_float32(dtype, tmp_path):
    params = random_params(PLAIN)
    folder = write_by_hand(tmp_path / "c", flatten(params), compressor=None, dtype=dtype)
    expected = jax.tree.map(lambda a: a.astype(jax.numpy.dtype(dtype)).astype(np.float32), params)
    same(t5x_checkpoints.load_params(folder, PLAIN), expected)


def test_an_array_whose_own_description_was_lost_is_read_by_the_index(tmp_path):
    params = random_params(PLAIN)
    folder = write_by_hand(tmp_path / "c", flatten(params), compressor={"id": "gzip", "level": 1})
    for hidden in folder.glob("*/.zarray"):
        hidden.unlink()
    same(t5x_checkpoints.load_params(folder, PLAIN), params)


@pytest.mark.parametrize("format", ["native", "orbax"])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("per_layer", [False, True])
def test_round_trips_are_exact(format, scan, per_layer, tmp_path):
    config = dataclasses.replace(PLAIN, scan_layers=scan, relative_bias_per_layer=per_layer)
    params = random_params(config)
    written = t5x_checkpoints.save(params, config, tmp_path, 3, format=format)
    assert written.name == "checkpoint_3"
    for wanted in (scan, not scan):
        loaded = t5x_checkpoints.load_params(written, dataclasses.replace(config, scan_layers=wanted))
        same(loaded, in_layout(params, config, wanted))
    assert weights.infer_config(t5x_checkpoints.open_checkpoint(tmp_path)) == config


@pytest.mark.parametrize("format", ["native", "orbax"])
@pytest.mark.parametrize("scan", [False, True])
def test_scalable_t5_splits_heads_and_has_a_bias_in_every_layer(format, scan, tmp_path):
    config = dataclasses.replace(PLAIN, scan_layers=scan)
    params = random_params(config)
    t5x_checkpoints.save(params, config, tmp_path, 0, format=format, layout="scalable_t5")
    shapes = {name: info.shape for name, info in t5x_checkpoints.open_checkpoint(tmp_path).infos().items()}
    inner = "decoder/decoder" if scan else "decoder/layers_2"
    layers = (3,) if scan else ()
    assert shapes[f"{inner}/self_attention/query/kernel"] == (8, *layers, 2, 4)
    assert shapes[f"{inner}/self_attention/out/kernel"] == (2, *layers, 4, 8)
    assert shapes[f"{inner}/relpos_bias/rel_embedding"] == (2, *layers, 32)
    assert "decoder/relpos_bias/rel_embedding" not in shapes
    per_layer = dataclasses.replace(config, relative_bias_per_layer=True)
    loaded = flatten(t5x_checkpoints.load_params(tmp_path, dataclasses.replace(per_layer, scan_layers=False)))
    plain = flatten(in_layout(params, config, False))
    for name, array in loaded.items():
        ours = name if name in plain else f"{name.split('/')[0]}/relpos_bias/rel_embedding"
        np.testing.assert_array_equal(array, plain[ours])


def test_arrays_are_cut_into_chunks_that_cover_them(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 64)
    monkeypatch.setattr(streamed_orbax, "CHUNK_BYTES", 64)
    config = dataclasses.replace(PLAIN, scan_layers=True)
    params = random_params(config)
    t5x_checkpoints.save(params, config, tmp_path, 0, compression="none")
    same(t5x_checkpoints.load_params(tmp_path, config), params)
    t5x_checkpoints.save(params, config, tmp_path / "orbax", 0, format="orbax")
    same(t5x_checkpoints.load_params(tmp_path / "orbax", config), params)
    assert len(list((tmp_path / "checkpoint_0" / "target.token_embedder.embedding").iterdir())) > 10


@given(st.lists(st.integers(1, 5000), min_size=0, max_size=4).map(tuple), st.booleans())
@settings(max_examples=200, deadline=None)
def test_chunks_are_small_and_whole(shape, stacked):
    chunk = arrays.chunk_shape(shape, stacked=stacked)
    assert len(chunk) == len(shape) and all(1 <= c <= max(s, 1) for c, s in zip(chunk, shape))
    assert 4 * np.prod(chunk, dtype=np.int64) <= arrays.CHUNK_BYTES


def test_shardings_and_eight_devices(tmp_path):
    for scan in (False, True):
        config = dataclasses.replace(PLAIN, vocab_size=16, scan_layers=scan)
        params = random_params(config)
        t5x_checkpoints.save(params, config, tmp_path, int(scan))
        mesh = partitioning.MeshConfig(2, 2, 2).build()
        for wanted in (config, dataclasses.replace(config, scan_layers=not scan)):
            shardings = partitioning.param_shardings(
                param_shapes(wanted), param_logical_axes(wanted), mesh, partitioning.DEFAULT_RULES
            )
            loaded = t5x_checkpoints.load_params(tmp_path / f"checkpoint_{int(scan)}", wanted, shardings=shardings)
            same(jax.tree.map(np.asarray, loaded), in_layout(params, config, wanted.scan_layers))
            for leaf, sharding in zip(jax.tree.leaves(loaded), jax.tree.leaves(shardings)):
                assert leaf.sharding == sharding


def test_partial_reads_are_the_parts(tmp_path):
    for format in ("native", "orbax"):
        params = random_params(PLAIN)
        t5x_checkpoints.save(params, PLAIN, tmp_path / format, 0, format=format)
        checkpoint = t5x_checkpoints.open_checkpoint(tmp_path / format)
        for config in (PLAIN, dataclasses.replace(PLAIN, scan_layers=True)):
            loaded = weights.Weights(checkpoint, config)
            wanted = flatten(in_layout(params, PLAIN, config.scan_layers))
            for name in loaded:
                index = tuple(slice(size // 2, size) for size in wanted[name].shape)
                np.testing.assert_array_equal(loaded.read(name, index), wanted[name][index])


def test_jax_arrays_are_saved_and_half_precision_becomes_float32(tmp_path):
    params = init_params(PLAIN, jax.random.key(0))
    half = jax.tree.map(lambda a: a.astype(jax.numpy.bfloat16), params)
    t5x_checkpoints.save(half, PLAIN, tmp_path, 0)
    same(t5x_checkpoints.load_params(tmp_path, PLAIN), jax.tree.map(lambda a: np.asarray(a, np.float32), half))


# What does not fit


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"vocab_size": 24},
            [
                "vocabulary 20 there, 24 here",
                "token_embedder/embedding: checkpoint [20, 8], configuration [24, 8]",
                "decoder/logits_dense/kernel: checkpoint [8, 20], configuration [8, 24]",
                "(2 differences",
            ],
        ),
        (
            {"embed_dim": 16},
            ["width 8 there, 16 here", "encoder/layers_1/mlp/wo/kernel: checkpoint [12, 8], configuration [12, 16]"],
        ),
        (
            {"num_decoder_layers": 2},
            [
                "3 decoder layers there, 2 here",
                "decoder/layers_2/mlp/wi_0/kernel: checkpoint [8, 12], configuration has none",
            ],
        ),
        (
            {"num_encoder_layers": 3},
            ["encoder/layers_2/attention/key/kernel: checkpoint has none, configuration [8, 8]"],
        ),
        ({"logits_via_embedding": True}, ["the checkpoint has a kernel for the logits", "(1 difference;"]),
        (
            {"mlp_activations": ("relu",)},
            ["mlp/wi/kernel: checkpoint has none", "mlp/wi_1/kernel: checkpoint [8, 12], configuration has none"],
        ),
    ],
)
def test_every_difference_is_listed_with_both_shapes(changes, told, tmp_path):
    t5x_checkpoints.save(random_params(PLAIN), PLAIN, tmp_path, 0)
    for scan in (False, True):  # the file's names are used, whichever layout is wanted
        with pytest.raises(ValueError) as error:
            t5x_checkpoints.load_params(tmp_path, dataclasses.replace(PLAIN, scan_layers=scan, **changes))
        for text in told:
            assert text in str(error.value)


def test_a_tied_checkpoint_for_an_untied_network(tmp_path):
    tied = dataclasses.replace(PLAIN, logits_via_embedding=True)
    t5x_checkpoints.save(random_params(tied), tied, tmp_path, 0)
    with pytest.raises(ValueError, match="logits come from the token table"):
        t5x_checkpoints.load_params(tmp_path, PLAIN)


def test_what_cannot_be_saved(tmp_path):
    params = random_params(PLAIN)
    with pytest.raises(ValueError, match=r"token_embedder/embedding.*configuration"):
        t5x_checkpoints.save(params, dataclasses.replace(PLAIN, vocab_size=21), tmp_path, 0)
    for arguments, told in (
        ({"format": "zip"}, "format must be"),
        ({"layout": "t5x"}, "layout must be"),
        ({"compression": "xz"}, "compression must be"),
    ):
        with pytest.raises(ValueError, match=told):
            t5x_checkpoints.save(params, PLAIN, tmp_path, 0, **arguments)
    with pytest.raises(ValueError, match="step must be"):
        t5x_checkpoints.save(params, PLAIN, tmp_path, -1)
    t5x_checkpoints.save(params, PLAIN, tmp_path, 0)
    with pytest.raises(ValueError, match="there already"):
        t5x_checkpoints.save(params, PLAIN, tmp_path, 0)


# Damaged or hostile files


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    t5x_checkpoints.save(random_params(PLAIN), PLAIN, folder, 0)
    return folder / "checkpoint_0"


@pytest.fixture(scope="module")
def orbax(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    t5x_checkpoints.save(random_params(PLAIN), PLAIN, folder, 0, format="orbax")
    return folder / "checkpoint_0"


def refused(path, match=None):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        t5x_checkpoints.load_params(path, PLAIN)


def test_nothing_there(tmp_path):
    refused(tmp_path, "no T5X checkpoint")
    refused(tmp_path / "nowhere", "no T5X checkpoint")
    with pytest.raises(ValueError, match="gs://"):
        arrays.kvstore("s3://bucket/x")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no T5X index"),
        (b"PK\x03\x04 not msgpack", "must hold a msgpack map|no T5X index"),
        (b'model_checkpoint_path: "model.ckpt-0"', "TensorFlow checkpoint"),
        (msgpack.packb([1, 2]), "msgpack map"),
        (msgpack.packb({"version": 1, "optimizer": {}}), "version must be 2 or 3"),
        (msgpack.packb({"version": "3", "optimizer": {}}), "version must be 2 or 3"),
        (msgpack.packb({"version": 3}), "expected a map 'optimizer'"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {}}}), "holds no parameters"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {"a": "text"}}}), "expected an array"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {"a/b": 1}}}), "without '/'"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {"a": [1]}}}), "expected an array"),
        (b"\x81\xa1a" * 100 + b"\x01", "nested more than 64"),
        (b"\x91" * 100_000, "no T5X index"),
        (b"\xdd\xff\xff\xff\xff", "no T5X index"),  # an array of four billion entries, none of which are there
        (
            msgpack.packb({"target": {"a": msgpack.ExtType(1, b"\x93\x91\xce\xff\xff\xff\xff\xa7float32\xc4\x00")}}),
            "no T5X index",
        ),
        (msgpack.packb({"target": {"a": msgpack.ExtType(1, b"\x93\x90\xa6object\xc4\x08AAAAAAAA")}}), "no T5X index"),
        (msgpack.packb({"target": {"__msgpack_chunked_array__": True, "shape": 3}}), "no T5X index"),
    ],
)
def test_indices_that_are_none(content, told, tmp_path):
    (tmp_path / "checkpoint").write_bytes(content)
    refused(tmp_path, told)


def test_an_index_has_a_largest_size(native, tmp_path):
    with pytest.raises(ValueError, match="at most 10"):
        t5x_index.read(native / "checkpoint", max_bytes=10)


def change_spec(native, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(native, folder)
    tree = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    change(tree["optimizer"]["target"]["token_embedder"]["embedding"])
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    return folder


@pytest.mark.parametrize(
    "path",
    [
        "../secret/",
        "/etc/",
        "..",
        ".",
        "",
        "a/b/",
        "target\\x",
        "x\0y",
        "//",
        7,
        None,
        ["a"],
        "target.token_embedder.absent/",
    ],
)
def test_an_index_cannot_point_out_of_its_folder(path, native, tmp_path):
    def change(spec):
        spec["kvstore"]["path"] = path

    refused(change_spec(native, tmp_path, change), "inside the checkpoint's folder|cannot be opened|is missing")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("driver", "n5", "expected a zarr array"),
        ("driver", "json", "expected a zarr array"),
        ("kvstore", {"driver": "http", "base_url": "http://localhost"}, "kvstore must be"),
        ("kvstore", "file:///etc/passwd", "expected a zarr array"),
        ("dtype", "object", "must hold numbers|no such dtype"),
        ("dtype", "uint16", "uint16"),
        ("dtype", "int32", "expected float64"),
        ("dtype", 5, "dtype"),
        ("metadata", {"shape": [2**31, 2**31]}, "elements"),
        ("metadata", {"shape": [20, -8]}, "integers ≥ 0"),
        ("metadata", {"shape": [1] * 9}, "at most 8 dimensions"),
        ("metadata", {"shape": "20"}, "must be a list"),
        ("metadata", {"shape": [20.0, 8]}, "integers"),
        ("metadata", {"shape": [True, 8]}, "integers"),
        ("metadata", {}, "must be a list"),
        ("metadata", {"shape": [40, 8]}, "does not fit"),
    ],
)
def test_descriptions_that_are_not_believed(field, value, told, native, tmp_path):
    refused(change_spec(native, tmp_path, lambda spec: spec.__setitem__(field, value)), told)


def test_an_array_that_is_not_what_the_index_says(native, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(native, folder)
    described = folder / "target.token_embedder.embedding" / ".zarray"
    for changes, told in (
        ({"shape": [40, 8]}, "the index gives float32 .20, 8., but the array is float32 .40, 8."),
        ({"dtype": "<i4"}, "but the array is int32"),
        ({"shape": [2**60, 2**60]}, "cannot be opened|elements"),
        ({"chunks": [0, 0]}, "cannot be opened"),
        ({"compressor": {"id": "nonsense"}}, "cannot be opened"),
    ):
        content = json.loads((native / "target.token_embedder.embedding" / ".zarray").read_text())
        described.write_text(json.dumps(content | changes))
        refused(folder, told)
    described.write_text("{")
    refused(folder, "cannot be opened")


def test_missing_and_truncated_chunks_are_no_zeros(native, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(native, folder)
    chunk = folder / "target.token_embedder.embedding" / "0.0"
    content = chunk.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:-8] + b"\0" * 8, b"garbage"):
        chunk.write_bytes(damaged)
        refused(folder, "cannot be read")
    chunk.unlink()
    refused(folder, "missing")


def test_old_orbax_checkpoints_have_an_index_of_placeholders(tmp_path):
    params = random_params(PLAIN)
    leaves = flatten(params)
    folder = write_by_hand(tmp_path / "checkpoint_4", leaves, compressor={"id": "gzip", "level": 1})
    target = weights.unflatten({name: f"PLACEHOLDER://target.{name.replace('/', '.')}" for name in leaves})
    index = {"target": target, "state": {"step": np.int32(4)}, "flax_mutables": None}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    same(t5x_checkpoints.load_params(folder, PLAIN), params)
    for bad in ("PLACEHOLDER://../x", "PLACEHOLDER://", "PLACEHOLDER:///etc"):
        target["token_embedder"]["embedding"] = bad
        (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
        refused(folder, "inside the checkpoint's folder")


def test_orbax_itself_reads_and_writes_the_same_files(tmp_path):
    params = random_params(PLAIN)
    t5x_checkpoints.save(params, PLAIN, tmp_path / "ours", 5, format="orbax")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        state = reader.restore(
            tmp_path / "ours" / "checkpoint_5" / "state",
            restore_args=None,
        )
        same(state["target"], params)
        assert state["state"]["step"] == 5
    for options in ({}, {"use_zarr3": True}, {"use_ocdbt": False}):
        folder = tmp_path / f"theirs{len(options)}{next(iter(options), '')}" / "checkpoint_6" / "state"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as writer:
            writer.save(folder, {"target": params, "state": {"step": np.int32(6)}})
        same(t5x_checkpoints.load_params(folder.parent, PLAIN), params)
        assert t5x_checkpoints.open_checkpoint(folder.parent).step == 6


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "tree_metadata"),
        ('{"tree_metadata": {"a": 3}}', "expected key_metadata"),
        (
            '{"tree_metadata": {"a": {"key_metadata": [], "value_metadata": {"value_type": "jax.Array"}}}}',
            "without a name",
        ),
        (
            '{"tree_metadata": {"a": {"key_metadata": [{"key": "../x"}], "value_metadata": {"value_type": "jax.Array"}}}}',
            "inside",
        ),
        (
            '{"tree_metadata": {"a": {"key_metadata": [{"key": "x"}], "value_metadata": {"value_type": "jax.Array"}}}}',
            "cannot be opened",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_orbax_metadata_that_is_not_believed(content, told, orbax, tmp_path):
    shutil.copytree(orbax, tmp_path / "copy")
    (tmp_path / "copy" / "state" / orbax_tree.METADATA_FILE).write_text(content)
    refused(tmp_path / "copy", told)


def test_damaged_orbax_databases(orbax, tmp_path):
    for number, name in enumerate(("manifest.ocdbt", "d")):
        folder = tmp_path / str(number)
        shutil.copytree(orbax, folder)
        victims = (
            [folder / "state" / name] if name != "d" else [f for f in (folder / "state").rglob("d/*") if f.is_file()]
        )
        for victim in victims:
            victim.write_bytes(victim.read_bytes()[:20])
        refused(folder, "cannot be")


def loads_or_refuses(path):
    """A damaged checkpoint either is refused with ValueError or loads (the damage hit nothing that is read)."""
    try:
        t5x_checkpoints.load_params(path, PLAIN)
    except (ValueError, FileNotFoundError):
        return
    return


@FUZZ
@given(data=st.data())
def test_fuzz_the_index(data, native, tmp_path):
    folder = tmp_path / "fuzz"
    if not folder.exists():
        shutil.copytree(native, folder)
    content = bytearray((native / "checkpoint").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    (folder / "checkpoint").write_bytes(bytes(content[: cut if data.draw(st.booleans()) else None]))
    loads_or_refuses(folder)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(["driver", "PLACEHOLDER://a", "zarr", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["driver", "kvstore", "metadata", "shape", "target", "a", "dtype", "path"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@FUZZ
@given(value=_VALUES)
def test_fuzz_trees(value, tmp_path):
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": {"target": value}}))
    with pytest.raises((ValueError, FileNotFoundError)):
        t5x_checkpoints.load_params(tmp_path, PLAIN)


@FUZZ
@given(value=_VALUES, binary=st.binary(max_size=200))
def test_fuzz_descriptions(value, binary, tmp_path):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": "x/"}, "metadata": value, "dtype": "float32"}
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": {"target": {"a": spec}}}))
    with pytest.raises((ValueError, FileNotFoundError)):
        t5x_checkpoints.load_params(tmp_path, PLAIN)
    (tmp_path / "checkpoint").write_bytes(binary)
    with pytest.raises((ValueError, FileNotFoundError)):
        t5x_checkpoints.load_params(tmp_path, PLAIN)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_orbax_files(data, orbax, tmp_path):
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(orbax, folder)
    victim = data.draw(st.sampled_from(sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())))
    content = bytearray((folder / victim).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / victim).write_bytes(bytes(content))
    loads_or_refuses(folder)


def test_checkpoints_of_other_things_have_no_config(tmp_path):
    def checkpoint(**shapes):
        info = {n.replace("__", "/"): arrays.in_memory(np.zeros(s, np.float32)) for n, s in shapes.items()}
        return weights.Checkpoint("here", info)

    with pytest.raises(ValueError, match="not of a T5: no parameter"):
        weights.infer_config(checkpoint(dense__kernel=(3, 4)))
    t5 = {
        "token_embedder__embedding": (20, 8),
        "encoder__relpos_bias__rel_embedding": (3, 32),
        "encoder__layers_0__attention__query__kernel": (8, 8),
        "encoder__layers_0__mlp__wi__kernel": (8, 12),
    }
    with pytest.raises(ValueError, match="not of a T5"):
        weights.infer_config(checkpoint(**t5))  # 8 columns are not 3 heads
    t5["encoder__relpos_bias__rel_embedding"] = (2, 32)
    with pytest.raises(ValueError, match="0 decoder layers"):
        weights.infer_config(checkpoint(**t5))
    with pytest.raises(ValueError, match="decoder layers"):
        weights.infer_config(checkpoint(**t5, decoder__layers_999999__mlp__wi__kernel=(8, 12)))


def test_gs_paths_become_googles_driver():
    assert arrays.zarr_in_folder("gs://t5-data/pretrained/checkpoint_1000000", "target.x") == {
        "driver": "zarr",
        "kvstore": {"driver": "gcs", "bucket": "t5-data", "path": "pretrained/checkpoint_1000000/target.x/"},
    }
    described = t5x_index.describe("target.x", (2,), (2,), None, gcs=True)
    assert described["kvstore"] == {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": "target.x/"}
