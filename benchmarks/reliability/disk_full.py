"""Every command that writes, on a file system without room: one line, exit code 74, old files whole, and it continues.

    python -m benchmarks.reliability.disk_full [--rooms=0,4096,40000]

The disk is a tmpfs of a few megabytes in a mount namespace of this program, filled up to some bytes. For every amount of
room, a command either succeeds or ends with one line and exit code 74; files that were there before, an older output of
the same name included, keep their bytes. Then room is made, and the same command must succeed. ``precompile`` is tried
where libtpu is installed, ``export --format=ct2`` where CTranslate2 is.
"""

import argparse
import ast
import collections
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.reliability import teacher_kills
from benchmarks.reliability.nursery import Nursery
from benchmarks.reliability.rows import Row, finish
from benchmarks.reliability.small_run import FILES, ROOT, SmallRun, environment

ROOMS = (0, 4096, 16384, 65536, 262144)
_SIZE = 48 * 2**20
_ENDS_S = 900.0


def commands(safe: pathlib.Path, disk: pathlib.Path, url: str) -> dict[str, list[str]]:
    """The command lines by name of the trial; ``safe`` holds their inputs, and all output goes to ``disk``."""
    rows, model = SmallRun(safe / "rows"), safe / "trained"
    train = rows.arguments(disk / "run", TRAIN_STEPS=10)
    data = ["--field=input=question", "--field=rationale=why", "--field=label=answer"]
    sweep = {
        "directory": str(disk / "sweep"),
        "gin_files": [argument.removeprefix("--gin_file=") for argument in train if argument.startswith("--gin_file")],
        "bindings": {
            name: ast.literal_eval(value)
            for name, _, value in (a.removeprefix("--gin.").partition("=") for a in train if a.startswith("--gin."))
            if name != "MODEL_DIR"
        }
        | {"TRAIN_STEPS": 4, "EVAL_PERIOD": 4},
        "axes": {"RANDOM_SEED": [0, 1]},
    }
    (safe / "sweep.json").write_text(json.dumps(sweep))
    export = ["export", f"--model_dir={model}", f"--output={disk / 'exported'}"]
    convert = ["convert", f"--from={model}", f"--to={disk / 'converted'}"]
    extract = ["extract", f"--inputs={safe / 'rows' / 'test.jsonl'}", *data, f"--output={disk / 'extracted.jsonl'}",
               "--prompt=template", "--model=stub", f"--base_url={url}"]  # fmt: skip
    precompile = ["precompile", *rows.arguments("unused"), "--topology=v5e:2x2", "--steps=train"]
    found = {
        "train": ["train", *train],
        "train_profile": ["train", *rows.arguments(disk / "run", TRAIN_STEPS=5, PROFILE_STEPS=(2, 4))],
        "train_more_steps": ["train", *rows.arguments(disk / "trained", TRAIN_STEPS=8, PROFILE_STEPS=(2, 4))],
        "eval_in_place": ["eval", f"--model_dir={disk / 'trained'}"],
        "eval": ["eval", f"--model_dir={model}", f"--output={disk / 'eval'}"],
        "infer": ["infer", f"--model_dir={model}", f"--input={safe / 'inputs.jsonl'}", f"--output={disk / 'out.jsonl'}"],
        "export": [*export, "--format=t5x"],
        "export_hf": [*export, "--format=hf"],
        "export_ct2": [*export, "--format=ct2"],
        "convert": [*convert, "--to_format=t5x"],
        "convert_hf": [*convert, "--to_format=hf"],
        "convert_distill": [*convert, "--to_format=distill"],
        "convert_orbax": [*convert, "--to_format=t5x_orbax"],
        "cache": ["cache", *rows.arguments("unused"), f"--output={disk / 'cache'}"],
        "vocabulary": ["vocabulary", f"--input={safe / 'text.txt'}", "--size=64", f"--output={disk / 'sp.model'}"],
        "example": ["example", f"--output={disk / 'example'}"],
        "inspect": ["inspect", f"--inputs={safe / 'rows' / 'train.jsonl'}", *data, f"--output={disk / 'page.html'}"],
        "extract": [*extract, f"--store={disk / 'replies.sqlite'}"],
        "extract_record": [*extract, f"--store={safe / 'replies.sqlite'}", f"--record_to={disk / 'recorded.jsonl'}"],
        "sweep": ["sweep", f"{safe / 'sweep.json'}"],
        "report": ["report", f"{model}", f"--output={disk / 'report.html'}"],
        "replay": ["replay", f"{disk / 'diverged'}"],
        "precompile": [*precompile, f"--hlo_dir={disk / 'hlo'}"],
        "precompile_search": [*precompile, "--search", f"--search_results={disk / 'found.jsonl'}", "--max_compiles=1",
                              "--search_batch_sizes=8", "--search_remat_policies=none"],
        "launch": ["launch", "skypilot", "--accelerators=A100:1", f"--task_file={disk / 'task.yaml'}", "--", "train",
                   "--gin.MODEL_DIR=gs://bucket/x"],
        "demo": ["demo", f"--directory={disk / 'demo'}"],
    }  # fmt: skip
    return found


_NEEDS = {"export_ct2": "ctranslate2", "precompile": "libtpu", "precompile_search": "libtpu"}


def lacking(name: str) -> str | None:
    """The package that a trial needs and that is not installed, or None."""
    package = _NEEDS.get(name)
    return package if package is not None and importlib.util.find_spec(package) is None else None


COPIES = {"train_more_steps": "trained", "eval_in_place": "trained", "replay": "diverged"}
"""Trials on a copy of a model directory."""
OLDER = {
    "vocabulary": ("sp.model",),
    "inspect": ("page.html",),
    "report": ("report.html", "report.md", "report.csv", "report.png"),
    "launch": ("task.yaml",),
    "eval": ("eval/jsonl_label_test.jsonl", "eval/jsonl_label_test.metrics.json"),
}
"""Files of an earlier call, which the command replaces."""
# Files of a finished run that the same run with more steps continues, before the disk is full.
CONTINUED = {
    "train_more_steps": tuple(
        f"trained/{name}"
        for name in ("attempts.json", "attempts.step", "config.gin", "config.json", "evaluations.jsonl")
    )
}
ONLY_FULL = ("demo",)
"""Commands whose continuation takes minutes: only their end on a full disk is tried."""
DIVERGES = {"LEARNING_RATE": 1e30, "train.train.validation": None, "TEST_SPLIT": None}
"""What makes a run end with an update to replay."""
TO_STDOUT = {
    "infer": ["infer", "--model_dir=SAFE/trained", "--input=SAFE/inputs.jsonl", "--output=-"],
    "eval": ["eval", "--model_dir=SAFE/trained", "--output=SAFE/eval"],
    "report": ["report", "SAFE/trained", "--output=SAFE/report.html"],
    "convert": ["convert", "--from=SAFE/trained"],
    "vocabulary": ["vocabulary", "--input=SAFE/text.txt", "--size=64", "--output=SAFE/sp.model"],
    "inspect": ["inspect", "--inputs=SAFE/rows/train.jsonl", "--field=input=question", "--field=rationale=why",
                "--field=label=answer", "--output=SAFE/page.html"],
    "sweep": ["sweep", "SAFE/sweep.json", "--dry_run"],
    "data_json": ["data", "--file=train=SAFE/rows/train.jsonl", "--field=input=question", "--vocabulary=bytes", "--json"],
    "precompile": ["precompile", "--gin_file=gin/models/t5_1_1_tiny.gin", "--gin_file=gin/tasks/svamp.gin",
                   "--gin_file=gin/runs/distill.gin", "--gin_file=gin/hardware/tpu_v5e_16.gin", "--topology=v5e:4x4",
                   "--steps=train", "--json"],
    "profile": ["profile", "SAFE/trained"],
    "replay": ["replay", "SAFE/diverged", "--json"],
    "data": ["data", "--file=train=SAFE/rows/train.jsonl", "--field=input=question", "--vocabulary=bytes"],
    "completion": ["completion", "bash"],
    "config": ["config", *(f"--gin_file=gin/{name}.gin" for name in FILES), "--gin.MODEL_DIR=x",
               "--gin.FILES={'train': 'SAFE/rows/train.jsonl', 'test': 'SAFE/rows/test.jsonl'}",
               "--gin.FIELDS={'input': 'question', 'rationale': 'why', 'label': 'answer'}"],
    "launch": ["launch", "hosts", "--host=localhost", "--dry-run", "--", "train", "--gin.MODEL_DIR=x"],
}  # fmt: skip
"""Commands that write to standard output, which is ``/dev/full``."""


def _digests(disk: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in disk.rglob("*")
        if path.is_file()
    }


def _contents(disk: pathlib.Path, files: Sequence[str]) -> dict[str, bytes]:
    return {file: (disk / file).read_bytes() for file in files}


def _whole(path: pathlib.Path, before: bytes) -> bool:
    """Whether a file that a run continues is readable, and has the lines of before, except those of the test at its end.

    A run that is continued with more steps is tested anew.
    """
    content = path.read_bytes() if path.exists() else b""
    try:
        if path.suffix == ".json":
            json.loads(content)
        elif path.suffix == ".jsonl":
            kept = [line for line in before.splitlines() if json.loads(line).get("split") != "test"]
            return content.splitlines()[: len(kept)] == kept and all(map(json.loads, content.splitlines()))
    except ValueError:
        return False
    return bool(content)


def _fill(disk: pathlib.Path, room: int) -> pathlib.Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        block = bytes(65536)
        for size in (65536, 4096):
            try:
                while True:
                    file.write(block[:size])
            except OSError:
                pass
        whole = file.tell()
        file.truncate(max(whole - room, 0))
    return ballast


class _Trial:
    def __init__(self, nursery: Nursery, folder: pathlib.Path, disk: pathlib.Path):
        self._nursery, self._folder, self.disk, self._number = nursery, folder, disk, 0
        self.ends: collections.Counter[int | None] = collections.Counter()

    def run(self, argv: Sequence[str]) -> tuple[int | None, str]:
        """The exit code and the output of a command."""
        self._number += 1
        return self._nursery.run(argv, self._folder / "logs" / f"{self._number}.txt", _ENDS_S)

    def full(self, name: str, argv: Sequence[str], room: int, row: Row) -> None:
        """One command with ``room`` bytes free, and again with more room."""
        kept = self.disk / "kept.txt"
        kept.write_text("written before\n")
        if name in COPIES:
            shutil.copytree(self._folder / "safe" / COPIES[name], self.disk / COPIES[name])
        for older in OLDER.get(name, ()):
            (self.disk / older).parent.mkdir(exist_ok=True)
            (self.disk / older).write_text("of an earlier call\n")
        before, continued = _digests(self.disk), _contents(self.disk, CONTINUED.get(name, ()))
        ballast = _fill(self.disk, room)
        row.tried += 1
        code, output = self.run(argv)
        self.ends[code] += 1
        where = f"{name} with {room:,} bytes free"
        if code not in (0, 74):
            row.lose(f"{where}: exit code {code}: {output[-1500:]}")
        elif "Traceback (most recent call last)" in output:
            row.lose(f"{where}: a traceback: {output[-1500:]}")
        elif code == 74 and not any(line.startswith(f"distill {argv[0]}: ") for line in output.splitlines()):
            row.lose(f"{where}: no line of error: {output[-600:]}")
        ballast.unlink()
        after = _digests(self.disk)
        replaced = OLDER.get(name, ()) if code == 0 else ()
        replaced = [*replaced, *(file for file, content in continued.items() if _whole(self.disk / file, content))]
        changed = [file for file, digest in before.items() if after.get(file) != digest and file not in replaced]
        if changed:
            row.lose(f"{where}: files changed: {changed}")
        if code == 0 or name in ONLY_FULL:
            return
        code, output = self.run(argv)
        if code != 0:
            row.lose(f"{where}: with room again, exit code {code}: {output[-1500:]}")

    def clear(self) -> None:
        """Empties the disk."""
        for path in self.disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run(rooms: Sequence[int] = ROOMS, names: Sequence[str] = ()) -> list[Row]:
    """One row; the trials run in a new mount namespace."""
    with tempfile.TemporaryDirectory(prefix="disk-full-") as folder:
        result = pathlib.Path(folder) / "rows.json"
        inside = [sys.executable, "-m", "benchmarks.reliability.disk_full", f"--inside={folder}"]
        inside += [f"--rooms={','.join(map(str, rooms))}", f"--commands={','.join(names)}"]
        subprocess.run(["unshare", "--map-root-user", "--mount", *inside], cwd=ROOT, check=True)
        return [Row(**row) for row in json.loads(result.read_text())]


def _inside(folder: pathlib.Path, rooms: Sequence[int], names: Sequence[str]) -> Row:
    row = Row("a full disk ends a command with one line and code 74; the same command continues", "a full tmpfs")
    started = time.monotonic()
    skipped: dict[str, str] = {}
    disk, safe = folder / "disk", folder / "safe"
    disk.mkdir()
    safe.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", disk], check=True)
    rows = SmallRun(safe / "rows").write()
    (safe / "inputs.jsonl").write_text("".join(json.dumps({"question": f"{n} and 2?"}) + "\n" for n in range(3000)))
    (safe / "text.txt").write_text("".join(f"the sum of {n} and {n * 7} is {n * 8}\n" for n in range(500)))
    with (
        teacher_kills.serving() as teacher,
        Nursery(environment(folder / "compiled") | _surroundings(safe)) as nursery,
    ):
        trial = _Trial(nursery, folder, disk)
        if not names or set(names) - {"train", "cache", "sweep", "replay", "demo"}:
            code, output = trial.run(["train", *rows.arguments(safe / "trained", TRAIN_STEPS=5, PROFILE_STEPS=(2, 4))])
            assert code == 0, output
        if not names or {"replay", "stdout", "stdout:replay"} & set(names):
            code, output = trial.run(["train", *rows.arguments(safe / "diverged", **DIVERGES)])
            assert code == 2, output
        for name, argv in commands(safe, disk, teacher.url).items():
            if names and name not in names:
                continue
            if package := lacking(name):
                skipped[name] = package
                continue
            for room in rooms[:1] if name in ONLY_FULL else rooms:
                trial.full(name, argv, room, row)
                trial.clear()
            print(f"{time.strftime('%H:%M:%S')} {name}: exit codes {dict(trial.ends)}, {row.lost} lost", flush=True)
        for name, argv in TO_STDOUT.items():
            if names and not {"stdout", f"stdout:{name}"} & set(names):
                continue
            if package := lacking(name):
                skipped[f"stdout:{name}"] = package
                continue
            _to_full_device(name, [argument.replace("SAFE", str(safe)) for argument in argv], row)
        printed = row.tried - trial.ends.total()
        row.how += f" ({trial.ends[74]} of {trial.ends.total()} trials ended with 74, the others had room)"
        row.how += f"; {printed} to /dev/full"
        for name, package in skipped.items():
            row.how += f"; NOT TRIED: {name}, since {package} is not installed"
    row.seconds = time.monotonic() - started
    return row


def _surroundings(safe: pathlib.Path) -> dict[str, str]:
    """Variables of the commands: temporary files off the full disk, and a ``sky`` that launches nothing."""
    programs = safe / "bin"
    programs.mkdir()
    (programs / "sky").write_text("#!/bin/sh\n")
    (programs / "sky").chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {"TMPDIR": str(safe), "PATH": path, "PYTHONPATH": modules}


def _to_full_device(name: str, argv: Sequence[str], row: Row) -> None:
    row.tried += 1
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "distill", *argv], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    if done.returncode != 74 or "Traceback" in done.stderr:
        row.lose(f"{name} to /dev/full: exit code {done.returncode}: {done.stderr[-600:]}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", default=",".join(map(str, ROOMS)), help="bytes left on the disk")
    parser.add_argument(
        "--commands", default="", help="only these trials, comma-separated; stdout or stdout:NAME: to /dev/full"
    )
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rooms = [int(room) for room in options.rooms.split(",")]
    names = [name for name in options.commands.split(",") if name]
    if options.inside:
        row = _inside(options.inside, rooms, names)
        (options.inside / "rows.json").write_text(json.dumps([vars(row)]))
        return
    finish(run(rooms, names))


if __name__ == "__main__":
    main()
