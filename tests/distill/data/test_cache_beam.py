"""A cache built on Apache Beam has the bytes of a local build, also after a failure; options are checked by name.

Tests that run a pipeline are skipped without Apache Beam, which the test environment leaves out: its pins of protobuf,
pyarrow, pillow, python-dateutil and beartype differ from constraints.txt (docs/cache.md).
"""

import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from distill.cli import main
from distill.data import cache
from distill.data.cache import manifest, pipeline, ranges, writing
from distill.tasks import feeding, jsonl, registration
from tests_support import files_of, write_rows

ROOT = pathlib.Path(__file__).resolve().parents[3]
FIELDS = {"input": "question", "rationale": "why", "label": "answer"}
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache_beam is not installed: pip install 'distill-step-by-step[beam]'",
)


def register(folder, **changes):
    files = {split: folder / f"{split}.jsonl" for split in ("train", "test")}
    return registration.register(jsonl.dataset(files, name="beamed", fields=FIELDS), "bytes", **changes)


def tasks(names):
    return (names.rationale, names.paired)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "train.jsonl", 41)
    write_rows(folder / "test.jsonl", 7, start=41)
    return folder


@pytest.fixture
def names(rows):
    return register(rows)


@pytest.fixture(scope="module")
def local(rows, tmp_path_factory):
    """Local builds with one and with three shards."""
    folder, names = tmp_path_factory.mktemp("local"), register(rows)
    return {
        shards: files_of(cache.build(tasks(names), folder / str(shards), shards=shards, tfrecord=True).directory)
        for shards in (1, 3)
    }


@pytest.mark.parametrize(("size", "shards"), [(15, 3), (1000, 1)])
def test_ranges_in_any_order_give_the_shards_of_a_local_build(names, local, tmp_path, size, shards):
    """The workers' functions without Beam: shards that begin within a range, and rows that are left out."""
    source = registration.get(names.paired).source
    parts = []
    for name in tasks(names):
        for split in source.splits:
            given = feeding.rows(source.dataset, split, source.selection)
            number, files = ranges.spill(tmp_path, split, given, size, lambda number: None)
            most = writing.per_shard(source.num_input_examples(split), shards)
            parts.append(ranges.Part(name, split, files, most, -(-number // most)))
    plan = ranges.Plan(str(tmp_path), registration.call_of(names.paired), tuple(parts), writing.FORMATS)
    elements = [(number, place) for number, part in enumerate(parts) for place in range(part.ranges)]
    random.Random(0).shuffle(elements)
    counts = [ranges.tokenise(element, plan) for element in elements]
    for element in ((number, shard) for number, part in enumerate(parts) for shard in range(part.most_shards)):
        ranges.write_shard(element, counts, plan)
    written = {name: data for name, data in files_of(tmp_path).items() if not name.startswith(ranges.WORK)}
    wanted = {name: data for name, data in local[shards].items() if "record-" in name}
    assert written == wanted
    assert len(wanted) >= 2 * len(parts)
    for number, part in enumerate(parts):
        index = np.concatenate(list(ranges.index_rows(tmp_path, part)))
        assert len(index) == sum(size for of, _, size in counts if of == number)


def test_the_index_has_the_bytes_of_numpy(tmp_path):
    array = np.arange(5 * 2 * 3, dtype=np.int32).reshape(5, 2, 3)
    index = writing.Index(manifest.epath.Path(tmp_path / "index.npy"))
    index.add(array[:2])
    index.add(array[2:])
    assert index.close()
    np.save(tmp_path / "wanted.npy", array)
    assert files_of(tmp_path)["index.npy"] == files_of(tmp_path)["wanted.npy"]
    assert set(files_of(tmp_path)) == {"index.npy", "wanted.npy"}


def test_a_damaged_range_is_built_again(names, tmp_path):
    source = registration.get(names.paired).source
    given = feeding.rows(source.dataset, "test", source.selection)
    number, files = ranges.spill(tmp_path, "test", given, 3, lambda number: None)
    assert (number, files) == (7, 3)
    # A second try reads no row.
    assert ranges.spill(tmp_path, "test", iter([{}]), 3, lambda number: None) == (7, 3)
    part = ranges.Part(names.paired, "test", files, 7, 1)
    plan = ranges.Plan(str(tmp_path), registration.call_of(names.paired), (part,), writing.FORMATS[:1])
    ranges.tokenise((0, 1), plan)
    path = ranges.token_file(tmp_path, part, 1, "npz")
    before, wanted = path.stat().mtime, path.read_bytes()
    os.utime(path, (1, 1))
    assert ranges.tokenise((0, 1), plan) == (0, 1, 3)
    assert path.stat().mtime == 1 < before  # kept
    path.write_bytes(wanted[:-1])
    assert ranges.tokenise((0, 1), plan) == (0, 1, 3)
    assert path.read_bytes() == wanted
    assert not [name for name in files_of(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("spark", None, "--beam_runner must be one of direct, dataflow, flink; got 'spark'"),
        ("direct", "runner=FlinkRunner", "name two runners: direct, flink"),
        ("direct", "a=1,,b=2", "expects name=value,name=value; got 'a=1,,b=2'"),
    ],
)
def test_flags_that_cannot_be_read(runner, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline.Settings.of(runner, options)


def test_the_convention_of_tfds_and_of_seqio():
    assert pipeline.Settings.of(None, None) is None
    assert pipeline.Settings.of("DirectRunner", None) == pipeline.Settings("direct")
    wanted = pipeline.Settings("dataflow", ("project=mine", "region=r"))
    assert pipeline.Settings.of("dataflow", "project=mine,region=r") == wanted
    assert pipeline.Settings.of(None, "--runner=DataflowRunner,--project=mine,--region=r") == wanted


def test_a_missing_package_is_named(names, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    message = r"^building a cache with Apache Beam needs the extra: pip install 'distill-step-by-step\[beam\]'$"
    with pytest.raises(ValueError, match=message):
        cache.build(tasks(names), tmp_path / "cache", beam=pipeline.Settings())
    assert not list(tmp_path.iterdir())


def test_a_dry_run_needs_a_runner(tmp_path, capsys):
    assert main.main(["cache", f"--output={tmp_path / 'c'}", "--gin_file=gin/tasks/jsonl.gin", "--dry_run"]) != 0
    assert "--dry_run describes a pipeline of Apache Beam; give --beam_runner=direct" in capsys.readouterr().err


@needs_beam
@pytest.mark.parametrize("shards", [1, 3])
def test_a_build_on_beam_has_the_bytes_of_a_local_build(names, local, tmp_path, shards):
    settings = pipeline.Settings(rows_per_range=15)
    built = cache.build(tasks(names), tmp_path / "cache", shards=shards, tfrecord=True, beam=settings)
    assert built.new
    assert files_of(built.directory) == local[shards]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    # Either form of a build finds the cache of the other.
    assert not cache.build(tasks(names), tmp_path / "cache", shards=shards, tfrecord=True).new


@needs_beam
def test_workers_in_other_processes_register_the_tasks_again(names, local, tmp_path):
    options = ("direct_running_mode=multi_processing", "direct_num_workers=2")
    settings = pipeline.Settings(options=options, rows_per_range=20)
    built = cache.build(tasks(names), tmp_path / "cache", shards=3, tfrecord=True, beam=settings)
    assert files_of(built.directory) == local[3]


@needs_beam
def test_a_failing_worker_is_reported_in_one_line_and_the_build_continues(names, local, tmp_path, monkeypatch):
    settings, tokenised = pipeline.Settings(rows_per_range=15), []
    original = ranges.writing.records_of

    def fail_at_the_paired_task(task, split):
        tokenised.append((task.name, split))
        if task.name == names.paired and split == "test":
            raise OSError("the disk is on fire")
        return original(task, split)

    monkeypatch.setattr(writing, "records_of", fail_at_the_paired_task)
    with pytest.raises(
        ValueError, match=r"^Apache Beam: .*disk is on fire.*; finished ranges and shards are kept"
    ) as e:
        cache.build(tasks(names), tmp_path / "cache", shards=3, tfrecord=True, beam=settings)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "cache").exists()
    finished = len(list((tmp_path / "cache.partial" / "work" / "tokens").rglob("*.json")))
    assert finished > 0
    monkeypatch.setattr(writing, "records_of", lambda task, split: tokenised.append(split) or original(task, split))
    tokenised.clear()
    built = cache.build(tasks(names), tmp_path / "cache", shards=3, tfrecord=True, beam=settings)
    assert files_of(built.directory) == local[3]
    total = 2 * sum(-(-entry["examples"] // 15) for entry in built.manifest["tasks"][names.paired].values())
    assert len(tokenised) == total - finished


KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from distill.data import cache
from distill.data.cache import pipeline, ranges
import importlib.util
spec = importlib.util.spec_from_file_location("test_cache_beam", {here!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
names = tests.register(pathlib.Path({rows!r}))
write = ranges.write_json
def killed_at_the_second_shard(path, value):
    write(path, value)
    if "shards" in path.parts and len(list(pathlib.Path(path.parent.parent).rglob("*.json"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
ranges.write_json = killed_at_the_second_shard
cache.build(tests.tasks(names), {output!r}, shards=3, tfrecord=True, beam=pipeline.Settings(rows_per_range=15))
"""


@needs_beam
def test_a_killed_build_continues(rows, names, local, tmp_path):
    code = KILLED.format(root=str(ROOT), here=__file__, rows=str(rows), output=str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (tmp_path / "cache").exists()
    work = tmp_path / "cache.partial" / "work"
    assert len(list((work / "shards").rglob("*.json"))) == 2
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache.partial").rglob("*-of-*")}
    assert len(kept) >= 4  # two shards in two formats
    written = []
    built = cache.build(
        tasks(names), tmp_path / "cache", shards=3, tfrecord=True, beam=pipeline.Settings(rows_per_range=15),
        on_progress=lambda *_: written.append(time.monotonic()),
    )  # fmt: skip
    assert files_of(built.directory) == local[3]
    assert not written  # no row was read for the workers again
    moved = {path: tmp_path / "cache" / path.relative_to(tmp_path / "cache.partial") for path in kept}
    same = [path for path, now in moved.items() if now.stat().st_mtime_ns == kept[path]]
    assert len(same) >= 4


def described(capsys, monkeypatch, rows, *flags):
    """What ``distill cache --dry_run`` prints: the exit code, its output and its errors."""
    files = {split: str(rows / f"{split}.jsonl") for split in ("train", "test")}
    given = [
        "cache", "--gin_file=gin/models/t5_1_1_tiny.gin", "--gin_file=gin/tasks/jsonl.gin",
        "--gin_file=gin/runs/distill.gin", "--gin_file=gin/hardware/cpu.gin",
        f"--gin.FILES={files!r}", f"--gin.FIELDS={FIELDS!r}",
        "--gin.VOCABULARY='bytes'", "--shards=1000", "--dry_run", *flags,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["distill", *given])
    code = main.main(given)
    found = capsys.readouterr()
    return code, found.out, found.err


CLOUD = "project=mine,region=europe-west4,temp_location=gs://bucket/tmp,sdk_container_image=image"


@needs_beam
@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (("--output=gs://bucket/c", "--beam_runner=dataflow", f"--beam_pipeline_options={CLOUD}"),
         ["runner: DataflowRunner", "project=mine, region=europe-west4"]),
        (("--output=gs://bucket/c", "--beam_pipeline_options=runner=FlinkRunner,flink_master=host:8081,parallelism=8"),
         ["runner: FlinkRunner", "flink_master=host:8081, parallelism=8"]),
        (("--output=here", "--beam_runner=direct"), ["runner: FnApiRunner", "options: none"]),
    ],
)  # fmt: skip
def test_a_dry_run_checks_and_describes_the_pipeline(rows, capsys, monkeypatch, tmp_path, flags, lines):
    code, out, err = described(capsys, monkeypatch, rows, *flags)
    assert code == 0, err
    for line in lines:
        assert line in out
    assert "steps: distribute ranges, distribute shards, ranges, shards, tokenise, write shards" in out
    assert "shards: at most 1,000 of each of 15 splits, 15,000 in all" in out
    (command,) = [line for line in out.splitlines() if line.startswith("command: ")]
    assert command.startswith("command: distill cache --gin_file=")
    assert "--dry_run" not in command and flags[-1] in command
    assert not pathlib.Path("here").exists() and not pathlib.Path("here.partial").exists()


@needs_beam
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output=gs://b/c", "--beam_runner=dataflow", "--beam_pipeline_options=project=mine"),
         "needs --beam_pipeline_options with region, temp_location"),
        (("--output=here", "--beam_runner=dataflow", f"--beam_pipeline_options={CLOUD}"), "needs --output=gs://…"),
        (("--output=gs://b/c", "--beam_runner=dataflow", f"--beam_pipeline_options={CLOUD},job_name=My_Job"),
         "Invalid job_name (My_Job)"),
        (("--output=gs://b/c", "--beam_runner=flink", "--beam_pipeline_options=flink_mster=host:8081"),
         "Apache Beam has no option 'flink_mster'; did you mean 'flink_master'?"),
        (("--output=gs://b/c", "--beam_runner=flink", "--beam_pipeline_options=parallelism=many"),
         "argument --parallelism: invalid int value: 'many'"),
    ],
)  # fmt: skip
def test_options_are_checked_without_a_network(rows, capsys, monkeypatch, flags, message):
    code, out, err = described(capsys, monkeypatch, rows, *flags)
    assert code != 0 and not out
    assert message in err
    assert len([line for line in err.splitlines() if "loading TensorFlow" not in line]) == 1


@needs_beam
def test_a_data_set_that_cannot_be_pickled(rows, tmp_path):
    held = (number for number in range(3))
    names = register(rows, label_metrics=[lambda targets, predictions: {"next": float(next(held))}])
    with pytest.raises(ValueError, match="cannot be sent to workers, since a part of it cannot be pickled"):
        cache.build(tasks(names), tmp_path / "cache", beam=pipeline.Settings())
