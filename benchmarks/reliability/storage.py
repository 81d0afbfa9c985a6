"""``gs://`` that answers 429 and 503, cuts contents short, and refuses: commands retry, or end with code 74.

    python -m benchmarks.reliability.storage [--commands=train,restore,eval,cache]

The server is the tests' own (``tests/fake_gcs.py``). TensorFlow's and TensorStore's clients talk to it as to Google's. A
command under a passing fault either succeeds or ends with one line and exit code 74; without the fault, the same command
then succeeds, and the training state is that of a run without faults, bit by bit. A refused object is named.
"""

import argparse
import contextlib
import itertools
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.reliability import states
from benchmarks.reliability.nursery import Nursery
from benchmarks.reliability.rows import Row, finish
from benchmarks.reliability.small_run import ROOT, SmallRun, environment

COMMANDS = ("train", "restore", "eval", "cache")
PASSING = ("429", "503", "cut")
"""Faults of every seventh request of an object: a status, or half of the content."""
_EVERY = 7
_ENDS_S = 900.0
_RETRIES = {"GCS_RETRY_CONFIG_MAX_RETRIES": "8", "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "50000",
            "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "400000"}  # fmt: skip


class _Trials:
    def __init__(self, nursery: Nursery, storage: Any, folder: pathlib.Path, row: Row):
        self._nursery, self._storage, self._folder, self._row = nursery, storage, folder, row
        self._number = 0

    def run(self, argv: Sequence[str]) -> tuple[int | None, str]:
        """The exit code and the output of a command."""
        self._number += 1
        return self._nursery.run(argv, self._folder / "logs" / f"{self._number}.txt", _ENDS_S)

    def disturbed(self, name: str, argv: Sequence[str], disturb: Callable[[str, str], Any], named: str = "") -> None:
        """A command under a fault, which ends with 0 or 74, and, unless the fault names an object, without the fault."""
        self._row.tried += 1
        self._storage.disturb = disturb
        code, output = self.run(argv)
        self._storage.disturb = lambda method, name: None
        print(f"{time.strftime('%H:%M:%S')} {name}: exit code {code}", file=sys.stderr, flush=True)
        lines = [line for line in output.splitlines() if line.startswith(f"distill {argv[0]}: ") and "gs://" in line]
        if code not in ((74,) if named else (0, 74)) or "Traceback (most recent call last)" in output:
            self._row.lose(f"{name}: exit code {code}: {output[-1500:]}")
        elif code == 74 and not any(named in line for line in lines):
            self._row.lose(f"{name}: no line names the object: {output[-600:]}")
        elif code == 74 and not named:
            code, output = self.run(argv)
            if code != 0:
                self._row.lose(f"{name}: without the fault, exit code {code}: {output[-1500:]}")

    def download(self, source: str, target: pathlib.Path) -> pathlib.Path:
        """Writes the objects below ``bucket/folder`` into a folder."""
        shutil.rmtree(target, ignore_errors=True)
        for name, data in self._storage.below(source).items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        return target


def passing(kind: str) -> Callable[[str, str], Any]:
    """Disturbs every seventh request of an object, of reads only for cut contents."""
    number = itertools.count(1)

    def disturb(method: str, name: str) -> Any:
        if kind == "cut" and method != "GET":
            return None
        if next(number) % _EVERY:
            return None
        return kind if kind == "cut" else int(kind)

    return disturb


def refusing(part: str) -> Callable[[str, str], Any]:
    """Answers 403 for objects whose name contains ``part``."""
    return lambda method, name: 403 if part in name else None


def run(commands: Sequence[str] = COMMANDS) -> list[Row]:
    """One row."""
    sys.path.insert(0, str(ROOT))
    from tests import fake_gcs

    row = Row(
        "a disturbed gs:// is survived by retries, or ends a command with one line and code 74",
        "429, 503 and cut contents for every seventh request; 403 for some objects; the tests' own server",
    )
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storage-")))
        rows = SmallRun(folder / "rows").write()
        storage, given = stack.enter_context(fake_gcs.serving(folder))
        given = environment(folder / "compiled") | given | _RETRIES
        nursery = stack.enter_context(Nursery(given))
        trials = _Trials(nursery, storage, folder, row)

        def train(name: str, steps: int) -> list[str]:
            return ["train", *rows.arguments(f"gs://bucket/{name}", TRAIN_STEPS=steps, EVAL_PERIOD=20)]

        for argv in (train("reference", 10), train("reference", 20)):
            code, output = trials.run(argv)
            if code != 0:
                row.tried += 1
                row.lose(f"training on gs:// without faults: exit code {code}: {output[-3000:]}")
                return [row]
            if argv == train("reference", 10):
                half = {name: data for name, data in storage.objects.items() if name.startswith("bucket/reference/")}
        reference = trials.download("bucket/reference", folder / "reference")
        if "train" in commands:
            for kind in PASSING:
                trials.disturbed(f"train, {kind}", train(f"t{kind}", 10), passing(kind))
            trials.disturbed("train, refused", train("t403", 10), refusing("t403/checkpoints"), "t403")
        for kind in PASSING if "restore" in commands else ():
            name = f"r{kind}"
            for one, data in half.items():
                storage.objects[one.replace("bucket/reference/", f"bucket/{name}/")] = data
            trials.disturbed(f"restore, {kind}", train(name, 20), passing(kind))
            found = states.difference(reference, trials.download(f"bucket/{name}", folder / "restored"))
            row.silent += bool(found)
            row.faults += [f"restore, {kind}: {found}"] if found else []
        model = ["--model_dir=gs://bucket/reference"]
        if "restore" in commands:
            refused = train("reference", 30)
            trials.disturbed("restore, refused", refused, refusing("reference/checkpoints/20"), "checkpoints/20")
        for kind in PASSING if "eval" in commands else ():
            argv = ["infer", *model, f"--input={rows.folder / 'test.jsonl'}", f"--output={folder / kind}.jsonl"]
            trials.disturbed(f"infer, {kind}", argv, passing(kind))
        if "eval" in commands:
            argv = ["infer", *model, f"--input={rows.folder / 'test.jsonl'}", f"--output={folder / '403'}.jsonl"]
            trials.disturbed("infer, refused", argv, refusing("reference/best"), "reference/best")
        for kind in PASSING if "cache" in commands else ():
            argv = ["cache", *rows.arguments("unused"), f"--output=gs://bucket/cache{kind}"]
            trials.disturbed(f"cache, {kind}", argv, passing(kind))
        if "cache" in commands:
            argv = ["cache", *rows.arguments("unused"), "--output=gs://bucket/cache403"]
            trials.disturbed("cache, refused", argv, refusing("cache403"), "cache403")
    row.seconds = time.monotonic() - started
    return [row]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    finish(run(parser.parse_args().commands.split(",")))


if __name__ == "__main__":
    main()
