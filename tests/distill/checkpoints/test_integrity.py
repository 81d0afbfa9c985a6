"""Whether a step is whole and of the right model, checked while it is restored."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
from etils import epath

import fake_gcs
from distill import exit_codes, file_digests
from distill.checkpoints import digests, integrity
from distill.checkpoints.digests import Damaged
from distill.cli import errors
from distill.model.config import T5Config
from tests_support import xla_flags

CONFIG = T5Config(
    vocab_size=16, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
)

CHECKS = [(True, "XXH3"), ("sha256", "SHA-256")]
ROOT = pathlib.Path(__file__).resolve().parents[3]
# One of two processes: saves steps 1 and 2, waits until the file of argument 3 exists, and restores.
TOGETHER = """
import logging, sys, time, pathlib
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), initialization_timeout=200)
import jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from distill.checkpoints.manager import Checkpoints
from distill.model.config import T5Config
from distill.training.state import TrainState
logging.basicConfig(format="LOG %(message)s")
config = T5Config(16, 8, 2, 4, 8, num_encoder_layers=1, num_decoder_layers=1)
mesh = jax.make_mesh((2,), ("all",))
split, copied = NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())
def state(step):
    values = np.random.default_rng(step).standard_normal((2, 300_000), np.float32)
    params = {"w": jax.make_array_from_callback(values.shape, split, lambda index: values[index])}
    number = jax.make_array_from_callback((), copied, lambda _: np.int32(step))
    return TrainState(number, params, {})
directory = pathlib.Path(sys.argv[3])
saver = Checkpoints(directory / "run", config, verify={"True": True}.get(sys.argv[4], sys.argv[4]))
for step in (1, 2):
    saver.save(state(step), {"seed": 0, "draws": 0, "consumed": {}}, {"best_step": 0})
saver.wait()
print("saved", flush=True)
while not (directory / "damaged").exists():
    time.sleep(0.1)
restored, _, _ = saver.restore(state(0))
mine = np.asarray(restored.params["w"].addressable_shards[0].data)
wanted = np.asarray(state(1).params["w"].addressable_shards[0].data)
print("restored", int(restored.step), np.array_equal(mine, wanted), flush=True)
saver.close()
"""
# Writes a step to gs://, and checks it by the digest that each line names.
OBJECTS = """
import sys
from etils import epath
from distill.checkpoints import digests
folder = epath.Path("gs://bucket/run/checkpoints/4")
for name, data in (("state/_METADATA", b"{}"), ("state/d/array", bytes(2**20 + 1))):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
digests.write(folder)
print("written", flush=True)
for line in sys.stdin:
    try:
        print("intact", digests.check(folder, line.strip()), flush=True)
    except digests.Damaged as error:
        print(error, flush=True)
"""


@pytest.fixture
def step(tmp_path):
    """A step with digests, whose array file is large enough to be hashed in the background."""
    folder = epath.Path(tmp_path / "best" / "4")
    for item, text in (("metrics/metrics", {}), ("model/metadata", dataclasses.asdict(CONFIG))):
        (folder / item).parent.mkdir(parents=True)
        (folder / item).write_text(json.dumps(text))
    (folder / "params" / "d").mkdir(parents=True)
    (folder / "params" / "_METADATA").write_text('{"tree_metadata": {}}')
    (folder / "params" / "d" / "data").write_bytes(bytes(2**20 + 1))
    digests.write(folder)
    return folder


def test_an_intact_step(step):
    with integrity.reading(step, CONFIG):
        pass
    integrity.check_step(step)


@pytest.mark.parametrize(("verify", "digest"), CHECKS)
def test_a_damaged_array_is_reported_at_the_end_and_replaces_errors_of_the_reader(step, verify, digest):
    path = step / "params" / "d" / "data"
    path.write_bytes(bytes(2**20) + b"\1")
    entered = False
    with pytest.raises(Damaged, match=rf"{path} does not have the {digest}"), integrity.reading(step, CONFIG, verify):
        entered = True
    assert entered  # the restore runs while the file is hashed
    with pytest.raises(Damaged, match=rf"{path} does not have the {digest}"), integrity.reading(step, CONFIG, verify):
        raise KeyError("an error of the reader, caused by the damage")


@pytest.mark.parametrize(("verify", "digest"), CHECKS)
def test_small_files_and_sizes_are_checked_before_anything_is_read(step, verify, digest):
    path = step / "params" / "_METADATA"
    before = path.read_text()
    path.write_text(before.replace(":", " "))
    with pytest.raises(Damaged, match=f"_METADATA does not have the {digest}"), integrity.reading(step, CONFIG, verify):
        pytest.fail("the reader got a damaged index")
    path.write_text(before)
    path = step / "params" / "d" / "data"
    path.write_bytes(bytes(2**20))
    with pytest.raises(Damaged, match="holds 1048576 bytes, expected 1048577"), integrity.reading(step, CONFIG, verify):
        pytest.fail("the reader got a truncated file")
    path.unlink()
    with pytest.raises(Damaged, match=f"{path} is missing"), integrity.reading(step, CONFIG, verify):
        pytest.fail("the reader found no file")


def test_an_error_of_the_reader_names_the_step(step):
    with pytest.raises(Damaged, match=f"{step} cannot be restored: KeyError: 'x'"), integrity.reading(step, CONFIG):
        raise KeyError("x")
    with pytest.raises(KeyboardInterrupt), integrity.reading(step, CONFIG):
        raise KeyboardInterrupt


def failing(monkeypatch, owner, name, number, suffix):
    """Has reading every file whose path ends in ``suffix`` fail with an error of the operating system."""
    real = getattr(owner, name)

    def fails(path, *arguments):
        if str(path).endswith(suffix):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments)

    monkeypatch.setattr(owner, name, fails)


STORAGE = [errno.EIO, errno.ESTALE, errno.EACCES]


@pytest.mark.parametrize("number", STORAGE)
@pytest.mark.parametrize(
    ("file", "verify"),
    [
        ("params/d/data", True),
        ("params/_METADATA", True),
        ("params/_METADATA", False),
        ("digests.json", True),
        ("model/metadata", True),
        ("model/metadata", False),
    ],
)
def test_a_fault_of_the_storage_is_no_damage(step, monkeypatch, number, file, verify):
    failing(monkeypatch, file_digests, "several_of_file", number, file)
    failing(monkeypatch, type(step), "read_bytes", number, file)
    with pytest.raises(OSError) as raised, integrity.reading(step, CONFIG, verify):
        pass
    code, line = errors.explain(raised.value)
    assert code == exit_codes.MACHINE
    assert line.startswith(f"checkpoint {step} cannot be read now: ") and "\n" not in line
    assert line.count("cannot be read now") == 1
    assert os.strerror(number) in line and file in line and "run the same command again" in line


def test_a_fault_of_the_storage_while_a_step_is_restored(step):
    message = f"checkpoint {step} cannot be read now: ValueError: UNAVAILABLE: try later; wait"
    with pytest.raises(OSError, match=message), integrity.reading(step, CONFIG):
        raise ValueError("UNAVAILABLE: try later")


def test_all_processes_learn_of_a_fault_of_the_storage_in_one(step, monkeypatch):
    """All raise the same error; otherwise the others would wait for the one that has ended."""
    told = []

    def gathered(text):
        told.append(text)
        return ["", text]

    monkeypatch.setattr(integrity.jax, "process_count", lambda: 2)
    monkeypatch.setattr(integrity, "everyones", gathered)
    with integrity.reading(step, CONFIG):
        pass
    assert told == ["", ""]
    failing(monkeypatch, file_digests, "several_of_file", errno.EIO, "_METADATA")
    with pytest.raises(OSError, match="cannot be read now"), integrity.reading(step, CONFIG):
        pytest.fail("it was read")
    assert len(told) == 3 and "cannot be read now" in told[2]
    monkeypatch.undo()
    monkeypatch.setattr(integrity.jax, "process_count", lambda: 2)
    for texts, kind in ((["", "the storage's"], OSError), (["", "damage"], Damaged)):
        answers = iter([texts, ["", ""]] if kind is OSError else [["", ""], texts])
        monkeypatch.setattr(integrity, "everyones", lambda _, answers=answers: next(answers))
        with pytest.raises(kind, match=texts[1]), integrity.reading(step, CONFIG):
            pytest.fail("it was read")


def test_a_step_of_another_model_is_refused_before_it_is_read(step):
    other = dataclasses.replace(CONFIG, mlp_dim=16)
    with pytest.raises(ValueError, match="is of another model: mlp_dim: 8 there, 16 here"):  # noqa: SIM117
        with integrity.reading(step, other):
            pytest.fail("it was read")


@pytest.mark.parametrize("digest", ["xxh3_128", "sha256"])
def test_shares_of_processes_cover_all_files(step, digest):
    (step / "params" / "d" / "data").write_bytes(bytes(2**20) + b"\1")
    found = []
    for number in range(4):
        try:
            digests.check(step, digest, share=slice(number, None, 4))
        except Damaged as error:
            found.append(str(error))
    assert len(found) == 1 and "params/d/data" in found[0]
    assert integrity.everyones("one process") == ["one process"]


def test_settings_that_are_no_part_of_the_model():
    saved = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    alike = dataclasses.replace(CONFIG, dropout_rate=0.5, dtype="bfloat16", remat_policy="full", attention="pallas")
    assert integrity.check_same_model(saved, alike, "x") is None
    with pytest.raises(ValueError) as caught:
        integrity.check_same_model({**saved, "embed_dim": 4, "new": 1}, CONFIG, "checkpoint x")
    assert str(caught.value) == "checkpoint x is of another model: embed_dim: 4 there, 8 here; new: 1 there, None here"


@contextlib.contextmanager
def running(script, *arguments, **environment):
    """A Python process with pipes, which does not outlive the context."""
    ours = {"PYTHONPATH": os.fspath(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
    environment = {**os.environ, **ours, **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(os.fspath, arguments)], text=True, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process, start):
    """The lines that a process prints, up to one that begins with ``start``."""
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(start):
            return lines
    raise AssertionError("\n".join(lines))


@pytest.mark.parametrize(("verify", "digest"), CHECKS)
def test_two_processes_cover_the_files_of_both_and_restore_the_same_intact_step(tmp_path, verify, digest):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(running(TOGETHER, address, str(number), tmp_path, str(verify))) for number in range(2)
        ]
        for process in both:
            lines_until(process, "saved")
        newest = tmp_path / "run" / "checkpoints" / "2"
        listed = json.loads((newest / digests.FILE).read_text())["files"]
        held = {path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file()}
        assert held - listed.keys() <= {digests.FILE, digests.COMMIT_FILE}
        large = [name for name, entry in listed.items() if entry["bytes"] > 2**20]
        assert len(large) == 2  # each process wrote its half of the array
        path = newest / large[1]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        (tmp_path / "damaged").touch()
        told = [lines_until(process, "restored") for process in both]
    assert [lines[-1] for lines in told] == ["restored 1 True"] * 2
    assert any(f"{path} does not have the {digest}" in line for line in told[0])
    assert (tmp_path / "run" / "damaged" / "checkpoints" / "2").is_dir()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the server's certificate")
def test_digests_on_an_object_store(tmp_path):
    with fake_gcs.serving(tmp_path) as (storage, environment), running(OBJECTS, **environment) as process:
        lines_until(process, "written")
        name = "bucket/run/checkpoints/4/state/d/array"
        intact = storage.objects[name]
        for digest, (data, expected) in itertools.product(
            ("xxh3_128", "sha256"),
            (
                (intact, "intact True"),
                (intact[:-1] + b"\1", "does not have the {}"),
                (intact[:-1], "holds 1048576 bytes, expected 1048577"),
                (None, "is missing"),
            ),
        ):
            storage.objects.pop(name)
            storage.objects |= {name: data} if data is not None else {}
            process.stdin.write(f"{digest}\n")
            process.stdin.flush()
            (*_, line) = lines_until(process, "intact" if data == intact else "checkpoint")
            assert expected.format(dict(CHECKS)["sha256" if digest == "sha256" else True]) in line
            assert "gs://bucket/run/checkpoints/4/state/d/array" in line or data == intact
            storage.objects[name] = intact
