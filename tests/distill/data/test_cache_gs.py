"""A cache on ``gs://``: written, read, checked and opened by TFDS through TensorFlow's own file system (see fake_gcs)."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import fake_gcs
import gs_client
from distill.data import cache
from tests_support import files_of, write_rows

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the server's certificate")

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATIENCE_S = 120


class Client:
    """A process that runs gs_client's commands."""

    def __init__(self, rows, environment):
        paths = os.pathsep.join([os.fspath(ROOT), os.fspath(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "gs_client.py", rows], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, **environment, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    def ask(self, command, **arguments):
        self._process.stdin.write(json.dumps([command, arguments], default=os.fspath) + "\n")
        self._process.stdin.flush()

    def answer(self):
        return json.loads(self._process.stdout.readline())

    def __call__(self, command, **arguments):
        self.ask(command, **arguments)
        return self.answer()

    def close(self):
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "train.jsonl", 30)
    write_rows(folder / "test.jsonl", 4, start=30)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with fake_gcs.serving(tmp_path_factory.mktemp("served")) as given:
        yield given


@pytest.fixture
def storage(served):
    """The content of the buckets, empty at first; no request is rejected."""
    served[0].objects.clear()
    served[0].requests.clear()
    served[0].refuse = lambda method, name: False
    return served[0]


@pytest.fixture(scope="module")
def clients(rows, served):
    """Two processes."""
    started = [Client(rows, served[1]) for _ in range(2)]
    yield started
    for client in started:
        client.close()


@pytest.fixture(scope="module")
def local(rows, tmp_path_factory):
    """The same cache in a local folder."""
    names = gs_client.register(rows)
    return cache.build((names.label, names.paired), tmp_path_factory.mktemp("local") / "cache", shards=3).directory


@pytest.fixture
def uploaded(storage, local):
    """The same cache as objects below ``gs://bucket/cache``."""
    storage.objects |= {f"bucket/cache/{name}": data for name, data in files_of(local).items()}
    return "gs://bucket/cache"


def scratch(folder):
    folder.mkdir()
    return folder


def of_the_cache(folder):
    """The cache's objects; TensorFlow adds its own files."""
    return [path for path in folder.iterdir() if path.name.startswith("distill-cache-")]


def partial(folder):
    """Files left over by incomplete copies."""
    return [path.name for root in of_the_cache(folder) for path in root.rglob("tmp*")]


SHARDS = [f"remote_paired/1.0.0/remote_paired-train.array_record-{i:05d}-of-00003" for i in range(3)]
INDEX = "index/remote_paired-train.npy"


def test_the_remote_cache_has_the_same_bytes_as_the_local_one(storage, clients, local, tmp_path):
    stage = scratch(tmp_path / "stage")
    assert clients[0]("build", output="gs://bucket/deep/cache", scratch=stage) == {"result": True}
    assert storage.below("bucket/deep/cache") == files_of(local)
    assert of_the_cache(stage) == []
    assert clients[0]("build", output="gs://bucket/deep/cache", scratch=stage) == {"result": False}


def test_an_interrupted_upload_resumes(storage, clients, local, tmp_path):
    stage = scratch(tmp_path / "stage")
    storage.refuse = lambda method, name: method == "POST" and name.endswith(SHARDS[1])
    told = clients[0]("build", output="gs://bucket/cache", scratch=stage)["error"]
    assert told.startswith(f"ValueError: cannot copy to gs://bucket/cache/{SHARDS[1]}: ")
    assert told.endswith("run the same command again to continue")
    present = storage.below("bucket/cache")
    assert SHARDS[0] in present
    assert SHARDS[1] not in present
    assert "manifest.json" not in present
    refused = clients[0]("batches", directory="gs://bucket/cache", scratch=scratch(tmp_path / "copies"))
    assert refused["error"].startswith("ValueError: gs://bucket/cache holds no finished cache")
    (held,) = of_the_cache(stage)
    tokenised = (held / SHARDS[2]).stat().st_mtime_ns
    storage.refuse = lambda method, name: method == "POST" and name.endswith("manifest.json")
    assert "manifest.json" in clients[0]("build", output="gs://bucket/cache", scratch=stage)["error"]
    assert (held / SHARDS[2]).stat().st_mtime_ns == tokenised
    storage.refuse = lambda method, name: False
    assert clients[0]("build", output="gs://bucket/cache", scratch=stage) == {"result": True}
    assert storage.below("bucket/cache").keys() == files_of(local).keys()


def test_two_processes_copy_at_once_and_read_the_same_batches_as_without_a_cache(storage, uploaded, clients, tmp_path):
    copies = scratch(tmp_path / "copies")
    for client in clients:
        client.ask("batches", directory=uploaded, scratch=copies)
    plain = clients[0].answer(), clients[1].answer()
    clients[0].ask("batches", directory=uploaded, scratch=copies)
    again = clients[0].answer()
    (root,) = of_the_cache(copies)
    held = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert held == {"machine", "input_keys/train.npy", INDEX, *SHARDS}
    without = clients[0]("batches", directory=None, scratch=copies)
    assert without == plain[0] == plain[1] == again
    before = len(storage.requests)
    clients[0]("batches", directory=uploaded, scratch=copies)
    assert set(storage.reads("bucket/cache", before)) == {"manifest.json"}  # the copies are reused


def test_a_shard_that_cannot_be_read(storage, uploaded, clients, tmp_path):
    storage.refuse = lambda method, name: method == "GET" and name.endswith(SHARDS[2])
    copies = scratch(tmp_path / "copies")
    told = clients[0]("batches", directory=uploaded, scratch=copies)["error"]
    assert told.startswith(f"ValueError: cannot copy gs://bucket/cache/{SHARDS[2]} to {copies}")
    assert partial(copies) == []


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: data[:-1] + b"x", "does not match manifest.json; delete the folder and build it again"),
        (lambda data: data[:100], "does not match manifest.json; delete the folder and build it again"),
        (lambda data: None, "is missing; delete the folder and build it again"),
    ],
    ids=["changed", "cut", "missing"],
)
def test_remote_damage_is_reported(storage, uploaded, clients, tmp_path, harm, message):
    name = f"bucket/cache/{SHARDS[1]}"
    data = harm(storage.objects.pop(name))
    storage.objects |= {name: data} if data is not None else {}
    copies = scratch(tmp_path / "copies")
    told = clients[0]("batches", directory=uploaded, scratch=copies)
    assert told == {"error": f"ValueError: the cache is damaged: gs://{name} {message}"}
    assert partial(copies) == []


def test_a_damaged_copy_is_reported(storage, uploaded, clients, tmp_path):
    copies = scratch(tmp_path / "copies")
    assert "result" in clients[0]("batches", directory=uploaded, scratch=copies)
    (root,) = of_the_cache(copies)
    (root / SHARDS[0]).write_bytes(b"")
    told = clients[0]("batches", directory=uploaded, scratch=copies)["error"]
    assert f"{root / SHARDS[0]} has 0 bytes and should have" in told


def test_tfds_reads_the_remote_cache(storage, uploaded, clients, local, rows, tmp_path):
    wanted = clients[0]("from_directory", directory=local, split="train")["result"]
    assert len(wanted) == 30
    assert clients[0]("from_directory", directory=uploaded, split="train") == {"result": wanted}
    assert clients[0]("data_source", directory=uploaded, split="train") == {"result": wanted}
    assert len(clients[0]("data_source", directory=uploaded, split="test")["result"]) == 4
    told = clients[0]("load", directory=uploaded, split="train")["error"]
    assert "not implemented for ArrayRecord files" in told  # as docs/cache.md states
    names = gs_client.register(rows)
    records = cache.build((names.label, names.paired), tmp_path / "cache", shards=3, tfrecord=True).directory
    storage.objects |= {f"bucket/records/{name}": data for name, data in files_of(records).items()}
    assert clients[0]("load", directory="gs://bucket/records", split="train") == {"result": wanted}
