"""Checkpoints that are damaged for real: flipped bits, truncated and deleted files, edited JSON, folders left by a kill."""

import dataclasses
import errno
import json
import logging
import os
import pathlib
import random
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from etils import epath

from distill.checkpoints import conversion, digests, integrity, schemas
from distill.checkpoints.manager import CheckpointConfig, Checkpoints, restore_student
from distill.data.batches import BatchStream
from distill.inference.evaluate import evaluate
from distill.sharding import partitioning
from distill.tasks import registration
from distill.training import loop, train
from distill.training.state import abstract_state

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STRIKES = 160
# Orbax writes it at the commit, after the digests, and nothing reads its content; its absence on a local disk, where the
# rename of the folder is the commit, changes nothing either.
NOT_READ = {digests.COMMIT_FILE}


class _Killed(Exception):
    """Ends a run before its result is written, as a kill would."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Where the run is trained once; every test damages a copy."""
    return tmp_path_factory.mktemp("original") / "run"


@pytest.fixture
def run(original, tmp_path, arguments, monkeypatch):
    """A run of 8 steps with checkpoints 4 and 8, ended before its test."""
    if not original.exists():
        with monkeypatch.context() as patch:
            patch.setattr(loop.Loop, "_test", _kill)
            with pytest.raises(_Killed):
                train.train(str(original), **arguments)
        assert sorted(path.name for path in (original / "checkpoints").iterdir()) == ["4", "8"]
    return pathlib.Path(shutil.copytree(original, tmp_path / "run"))


def _kill(self: loop.Loop, number: int, lane: loop.Lane):
    lane.saver.wait()
    raise _Killed


def steps_of(run: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for kind in ("checkpoints", "best") for path in (run / kind).iterdir() if path.name.isdecimal())


def files_of(step: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def restored(run, arguments, verify: bool | str = True):
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    like = abstract_state(arguments["model"], arguments["optimizer"], mesh, partitioning.DEFAULT_RULES, ema=False)
    saver = Checkpoints(run, arguments["model"], verify=verify)
    try:
        return saver.restore(like)
    finally:
        saver.close()


def damage(path: pathlib.Path, kind: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
    elif kind == "truncate":
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


def test_digests_list_every_file_of_every_step(run):
    assert {path.parent.name for path in steps_of(run)} == {"checkpoints", "best"}
    for step in steps_of(run):
        listed = set(json.loads((step / digests.FILE).read_text())["files"])
        held = {path.relative_to(step).as_posix() for path in files_of(step)}
        assert held - listed == {digests.FILE, digests.COMMIT_FILE}
        assert listed < held
        assert digests.METADATA_FILE in listed
        for digest in ("xxh3_128", "sha256"):
            assert digests.check(step, digest)


@pytest.mark.parametrize("verify", [True, "sha256"])
def test_no_damage_is_silent(run, caplog, verify):
    rng = random.Random(0)
    places = [(step, path) for step in steps_of(run) for path in files_of(step) if path.stat().st_size]
    silent, struck = [], 0
    for number in range(STRIKES):
        step, path = places[number % len(places)]
        kind = ("flip", "truncate", "delete")[rng.randrange(3)] if number >= len(places) else "flip"
        before = path.read_bytes()
        damage(path, kind, rng)
        struck += 1
        caplog.clear()
        try:
            integrity.check_step(epath.Path(step), verify)
            told = " ".join(record.getMessage() for record in caplog.records)
        except digests.Damaged as error:
            told = str(error)
            assert "\n" not in told
        if path.name not in told or str(step) not in told:
            silent.append((kind, path.relative_to(step).as_posix()))
        path.write_bytes(before)
    assert struck == STRIKES
    assert {name for _, name in silent} <= NOT_READ
    for step in steps_of(run):
        assert digests.check(step)


def test_a_restart_continues_from_the_newest_intact_checkpoint(run, arguments, tmp_path, caplog):
    without = tmp_path / "without"
    shutil.copytree(run, without)
    shutil.rmtree(without / "checkpoints" / "8")
    newest = run / "checkpoints" / "8"
    largest = max(files_of(newest / "state"), key=lambda path: path.stat().st_size)
    damage(largest, "flip", random.Random(1))
    results = [train.train(str(folder), **arguments) for folder in (run, without)]
    assert f"checkpoint {newest} is damaged: {largest} does not have the XXH3" in caplog.text
    assert (run / "damaged" / "checkpoints" / "8" / digests.FILE).exists()
    same = {"seconds": 0, "performance": {}}  # times differ
    assert dataclasses.replace(results[0], **same) == dataclasses.replace(results[1], **same)
    ours, theirs = restored(run, arguments), restored(without, arguments)
    assert int(ours[0].step) == 8
    for a, b in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(theirs[0]), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert ours[1] == theirs[1]


def test_a_checkpoint_that_the_storage_cannot_read_now_stays_in_its_place(run, arguments, monkeypatch):
    newest = run / "checkpoints" / "8"
    real = digests.file_digests.several_of_file

    def fails(path, kinds):
        if str(newest) in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, kinds)

    with monkeypatch.context() as patch:
        patch.setattr(digests.file_digests, "several_of_file", fails)
        with pytest.raises(OSError, match=f"{newest} cannot be read now"):
            restored(run, arguments)
    assert not (run / "damaged").exists()
    assert int(restored(run, arguments)[0].step) == 8


def test_a_run_without_an_intact_checkpoint_is_refused(run, arguments):
    for step in (run / "checkpoints").iterdir():
        (step / "state" / "_METADATA").unlink()
    with pytest.raises(
        digests.Damaged, match=r"no intact checkpoint is left in .*checkpoints: train in another MODEL_DIR"
    ):
        train.train(str(run), **arguments)


def test_damaged_best_parameters_are_refused_by_evaluation_and_export(run, arguments):
    best = max((run / "best").iterdir(), key=lambda path: int(path.name))
    damage(max(files_of(best / "params"), key=lambda path: path.stat().st_size), "flip", random.Random(2))
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    for attempt in (
        lambda: restore_student(run, arguments["model"], mesh),  # what infer and eval call
        lambda: evaluate(str(run), model=arguments["model"], task_name=arguments["validation"].task_name),
        lambda: conversion.convert(run, run.parent / "exported"),  # export opens the directory by the same function
    ):
        with pytest.raises(digests.Damaged, match=rf"{best} is damaged: {best}/params/\S+ does not have") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def rewritten(step: pathlib.Path, change, version: int | None = None) -> None:
    """Changes the entries of ``digests.json``, and completes it as one that was written so: with its own digest."""
    raw = json.loads((step / digests.FILE).read_text())
    raw["files"] = {name: change(entry) for name, entry in raw["files"].items()}
    raw |= {"version": version or raw["version"], "sha256": digests._own_digest(raw["files"])}
    (step / digests.FILE).write_text(json.dumps(raw))


def largest_of(step: pathlib.Path) -> pathlib.Path:
    return max(files_of(step / "state"), key=lambda path: path.stat().st_size)


# How versions 1 and 2 listed a file. This BLAKE3 is that of no file: it is not compared.
EARLIER = {
    1: lambda entry: [entry["bytes"], entry["sha256"]],
    2: lambda entry: {"bytes": entry["bytes"], "sha256": entry["sha256"], "blake3": "0" * 64},
}


@pytest.mark.parametrize(("version", "verify"), [(1, True), (1, False), (2, True), (2, "sha256")])
def test_a_step_whose_list_has_no_xxh3_is_checked_by_its_sha256(run, arguments, version, verify):
    step = run / "checkpoints" / "8"
    rewritten(step, EARLIER[version], version)
    assert digests.check(step)
    damage(largest_of(step), "flip", random.Random(1))
    if verify:
        with pytest.raises(digests.Damaged, match=rf"{largest_of(step)} does not have the SHA-256"):
            integrity.check_step(epath.Path(step), verify)
    else:
        integrity.check_step(epath.Path(step), verify)
    state, _, _ = restored(run, arguments, verify or "sha256")
    assert int(state.step) == 4


@pytest.mark.parametrize("wrong", ["xxh3_128", "sha256", "both"])
def test_digests_that_disagree_with_the_file(run, wrong):
    """Each check compares its own digest, whatever the other one is."""
    step = epath.Path(run / "checkpoints" / "8")
    other = {name: "0" * 64 for name in ("xxh3_128", "sha256") if wrong in (name, "both")}
    rewritten(run / "checkpoints" / "8", lambda entry: entry | other)
    for verify, name, label in ((True, "xxh3_128", "XXH3"), ("sha256", "sha256", "SHA-256")):
        if name in other:
            with pytest.raises(
                digests.Damaged, match=rf"does not have the {label} 000000000000… that digests\.json lists"
            ):
                integrity.check_step(step, verify)
        else:
            integrity.check_step(step, verify)
    integrity.check_step(step, False)


@pytest.mark.parametrize(
    ("change", "version", "expected"),
    [
        (lambda entry: {"bytes": entry["bytes"], "sha256": entry["sha256"]}, 3, "expected bytes, sha256, xxh3_128 of"),
        (lambda entry: entry | {"md5": ""}, 3, "expected bytes, sha256, xxh3_128 of"),
        (lambda entry: entry | {"bytes": True}, 3, "expected bytes, sha256, xxh3_128 of"),
        (lambda entry: entry | {"xxh3_128": None}, 3, "expected digests in hexadecimal of"),
        (lambda entry: entry | {"sha256": "0\n"}, 3, "expected digests in hexadecimal of"),
        (lambda entry: [entry["bytes"], entry["sha256"]], 3, "expected bytes, sha256, xxh3_128 of"),
        (lambda entry: entry, 2, "expected bytes, sha256, blake3 of"),
        (lambda entry: [entry["bytes"], 5], 1, "expected digests in hexadecimal of"),
        (lambda entry: [entry["bytes"]], 1, "not enough values"),
        (lambda entry: entry, 4, "it is of version 4, expected one of 1, 2, 3"),
    ],
)
def test_a_list_of_another_form_is_refused(run, change, version, expected):
    step = run / "checkpoints" / "8"
    rewritten(step, change, version)
    for verify in (True, "sha256"):
        with pytest.raises(digests.Damaged, match=rf"{step / digests.FILE} is not a list of digests \(.*{expected}"):
            integrity.check_step(epath.Path(step), verify)


@pytest.mark.parametrize("verify", [True, "sha256"])
def test_damage_is_found_by_either_check_at_a_restore(run, arguments, verify, caplog):
    path = largest_of(run / "checkpoints" / "8")
    damage(path, "flip", random.Random(3))
    state, _, _ = restored(run, arguments, verify)
    assert int(state.step) == 4
    assert f"{path} does not have the {'XXH3' if verify is True else 'SHA-256'}" in caplog.text


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum of coreutils compares the digests")
def test_sha256sum_compares_the_listed_digests(run):
    step = run / "checkpoints" / "8"
    files = json.loads((step / digests.FILE).read_text())["files"]
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in files.items())

    def compared() -> int:
        command = ["sha256sum", "--check", "--strict", "--quiet"]
        return subprocess.run(command, input=lines, text=True, cwd=step, capture_output=True).returncode

    assert compared() == 0
    damage(largest_of(step), "flip", random.Random(4))
    assert compared() == 1


@pytest.mark.parametrize("verify", ["md5", "xxh3_128", None, 1])
def test_other_values_of_the_setting_are_refused(verify):
    with pytest.raises(ValueError, match=rf"must be True \(XXH3\), 'sha256' or False \(none\); got {verify!r}"):
        digests.chosen(verify)


@pytest.mark.parametrize(
    ("item", "key", "value", "expected"),
    [
        ("position", "draws", 7, "draws must be the sum of consumed"),
        ("position", "draws", -1, "draws must be ≥ 0"),
        ("position", "consumed", [1], "consumed must be a JSON object"),
        ("position", "other", 1, "unknown ['other']"),
        ("progress", "best_step", "4", "best_step must be an integer"),
        ("progress", "best", True, "best must be a number"),
        ("model", "vocab_size", 0.5, "vocab_size must be an integer"),
        ("model", "dtype", {"a": 1}, "dtype must be a plain setting"),
    ],
)
def test_edited_json_is_refused_by_its_schema_too(run, item, key, value, expected):
    """Without digests, as in a step of an earlier version."""
    step = run / "checkpoints" / "8"
    path = step / item / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(digests.Damaged, match=re.escape(str(path))):
        digests.check(step)
    (step / digests.FILE).unlink()
    with pytest.raises(digests.Damaged) as caught:
        integrity.check_step(epath.Path(step))
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_metrics_are_numbers():
    with pytest.raises(digests.Damaged, match="accuracy must be a number; got 'high'"):
        schemas.check("metrics", {"accuracy": "high"}, "metrics")


def test_digests_can_be_switched_off_and_their_absence_is_reported(tmp_path, arguments, caplog):
    arguments["checkpoints"] = CheckpointConfig(period=4, verify=False)
    train.train(str(tmp_path / "run"), **arguments)
    assert not list((tmp_path / "run").rglob(digests.FILE))
    with caplog.at_level(logging.WARNING):
        restored(tmp_path / "run", arguments)
    assert f"checkpoint {tmp_path}/run/checkpoints/8 has no {digests.FILE}" in caplog.text
    shutil.rmtree(tmp_path / "run/checkpoints/8/state")
    state, _, _ = restored(tmp_path / "run", arguments)
    assert int(state.step) == 4


def test_every_mth_checkpoint_is_kept(tmp_path, arguments):
    arguments["checkpoints"] = CheckpointConfig(period=1, keep=1, keep_every=3)
    train.train(str(tmp_path / "run"), **arguments)
    kept = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdecimal())
    assert [step for step in kept if step] == [3, 6, 8]
    with pytest.raises(ValueError, match=r"CheckpointConfig\.keep_every must be ≥ 1 or None; got 0"):
        CheckpointConfig(keep_every=0)


def test_unfinished_folders_of_killed_runs_are_removed(run, arguments):
    for kind in ("checkpoints", "best"):
        (run / kind / "6.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    restored(run, arguments)  # a reader, which does not hold the lock, removes nothing
    assert len(list(run.rglob("6.orbax-checkpoint-tmp"))) == 2
    train.train(str(run), **arguments)
    assert not list(run.rglob("*.orbax-checkpoint-tmp*"))


def test_changed_rows_are_refused_at_a_restart(run, arguments, tmp_path, sums):
    path = tmp_path / "train.jsonl"
    rows = path.read_text()
    path.write_text(
        rows.replace(json.loads(rows.splitlines()[0])["why"], json.loads(rows.splitlines()[0])["why"][::-1])
    )
    assert path.read_text() != rows
    data = arguments["data"]
    position = json.loads((run / "checkpoints/8/position/metadata").read_text())
    reread = registration.call_of(data.mixture_or_task_name)
    reread()
    fresh = BatchStream(data.mixture_or_task_name, data.layout, seed=3)
    with pytest.raises(
        ValueError, match=r"the rows of '\S+', split 'train', have changed since the checkpoint was saved"
    ):
        fresh.restore(position)
    path.write_text(rows)
    reread()
    BatchStream(data.mixture_or_task_name, data.layout, seed=3).restore(position)
