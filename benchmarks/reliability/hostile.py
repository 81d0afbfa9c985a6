"""Hostile configurations, folders, rows and prompts: none runs a command, and none ends in a traceback.

    python -m benchmarks.reliability.hostile

Every payload would create a file. Inputs of other folders, such as ``../shared/cases``, are run too where they exist.
"""

import argparse
import json
import pathlib
import pickle
import shutil
import tempfile
import time

from benchmarks.reliability.nursery import Nursery
from benchmarks.reliability.rows import Row, finish
from benchmarks.reliability.small_run import ROOT, SmallRun, environment

SHARED = ROOT.parent / "shared" / "cases"
_ENDS_S = 600.0
_HEAD = "from __gin__ import dynamic_registration\n"
# Configurations that would run COMMAND, or write a file.
GIN = {
    "attribute of a trusted module": "from distill.checkpoints import manager\nX = @manager.contextlib.os.system()\n"
    "manager.contextlib.os.system.command = COMMAND\nEVAL_BATCH_SIZE = %X\n",
    "attribute of a command": "from distill.cli import main\nEVAL_BATCH_SIZE = @main.os.system()\n"
    "main.os.system.command = COMMAND\n",
    "import of os": "import os\nEVAL_BATCH_SIZE = @os.system()\nos.system.command = COMMAND\n",
    "import of subprocess": "from subprocess import run\nEVAL_BATCH_SIZE = @run()\nrun.args = ['sh', '-c', COMMAND]\n",
    "builtins": "import builtins\nEVAL_BATCH_SIZE = @builtins.exec()\nbuiltins.exec.source = COMMAND\n",
    "a loader that unpickles": "import jax.numpy\nEVAL_BATCH_SIZE = @jax.numpy.load()\n"
    "jax.numpy.load.file = 'FOLDER/payload.npy'\njax.numpy.load.allow_pickle = True\n",
    "through optax": "import optax\nEVAL_BATCH_SIZE = @optax._src.base.os.system()\n"
    "optax._src.base.os.system.command = COMMAND\n",
    "through seqio": "import seqio\nEVAL_BATCH_SIZE = @seqio.utils.os.system()\nseqio.utils.os.system.command = COMMAND\n",
    "a configurable of the launcher": "from distill.tools.launch import plan\nEVAL_BATCH_SIZE = @plan.subprocess.run()\n"
    "plan.subprocess.run.args = ['sh', '-c', COMMAND]\n",
    "a name bound again": "from distill.checkpoints import manager as a\nEVAL_BATCH_SIZE = @a.contextlib.os.system()\n"
    "a.contextlib.os.system.command = COMMAND\nfrom distill.training import optimizers as a\n",
    "a function that writes": "from distill import atomic_files\nEVAL_BATCH_SIZE = @atomic_files.replace()\n"
    "atomic_files.replace.path = 'FOLDER/ran'\natomic_files.replace.content = ''\n",
    "a function that another file names": "from distill import atomic_files\natomic_files.replace.path = 'FOLDER/ran'\n"
    "atomic_files.replace.content = ''\ninclude 'FOLDER/inner.gin'\n",
}  # fmt: skip


class _Payload:
    """Unpickled, it would run a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (self.command,)


class _Trial:
    def __init__(self, nursery: Nursery, folder: pathlib.Path, row: Row):
        self._nursery, self._folder, self._row = nursery, folder, row
        self.ran = folder / "ran"

    def run(self, name: str, argv: list[str], *, codes: tuple[int, ...]) -> None:
        """Runs a command, which must end with one of ``codes``, without a traceback, and execute nothing."""
        self._row.tried += 1
        code, output = self._nursery.run(argv, self._folder / "logs" / f"{self._row.tried}.txt", _ENDS_S)
        if self.ran.exists():
            self.ran.unlink()
            self._row.executed += 1
            self._row.faults.append(f"{name}: its command ran")
        if code not in codes or "Traceback (most recent call last)" in output:
            self._row.lose(f"{name}: exit code {code}: {output[-1200:]}")


def run() -> list[Row]:
    """One row."""
    row = Row(
        "no input runs a command or ends in a traceback", "hostile configurations, student folders, rows, prompts"
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        folder = pathlib.Path(temporary)
        rows = SmallRun(folder / "rows").write()
        with Nursery(environment(folder / "compiled")) as nursery:
            model = folder / "trained"
            code, output = nursery.run(["train", *rows.arguments(model, TRAIN_STEPS=5)], folder / "train.txt", _ENDS_S)
            assert code == 0, output
            trial = _Trial(nursery, folder, row)
            _configurations(trial, folder, model, rows)
            _folders(trial, folder)
            _rows(trial, folder, model, rows)
    row.seconds = time.monotonic() - started
    return [row]


def _configurations(trial: _Trial, folder: pathlib.Path, model: pathlib.Path, rows: SmallRun) -> None:
    command = f"touch {trial.ran}"
    with (folder / "payload.npy").open("wb") as file:
        pickle.dump(_Payload(command), file)
    (folder / "inner.gin").write_text("EMA_DECAY = @replace()\n")
    inputs = folder / "inputs.jsonl"
    inputs.write_text('{"question": "1 and 2?"}\n')
    texts = {name: _HEAD + text for name, text in GIN.items()}
    for path in sorted((SHARED / "untrusted_gin").glob("*.gin")):
        texts[path.name] = path.read_text()
    for name, text in texts.items():
        text = text.replace("COMMAND", repr(command)).replace("FOLDER", str(folder))
        text = text.replace("echo this file ran a command > ran_by_gin", command)
        given = folder / "hostile.gin"
        given.write_text(text)
        trial.run(f"{name}, --gin_file", ["config", f"--gin_file={given}"], codes=(2,))
        trial.run(f"{name}, train", ["train", *rows.arguments(folder / "new"), f"--gin_file={given}"], codes=(2,))
        copy = folder / "copy"
        shutil.copytree(model, copy)
        config = copy / "config.gin"
        config.write_text(text + "\n" + config.read_text().removeprefix(_HEAD))
        # These commands read the student's data; whether they read the configuration is not the matter.
        trial.run(f"{name}, eval", ["eval", f"--model_dir={copy}", f"--output={folder / 'e'}"], codes=(0, 2))
        output = folder / "answers.jsonl"
        infer = ["infer", f"--model_dir={copy}", f"--input={inputs}", f"--output={output}"]
        export = ["export", f"--model_dir={copy}", f"--output={folder / 'x'}"]
        for argv in (infer, export) if name in (*list(GIN)[:1], "reaches_os.gin") else ():  # they take a while
            trial.run(f"{name}, {argv[0]}", argv, codes=(0, 2))
        shutil.rmtree(copy)
        shutil.rmtree(folder / "x", ignore_errors=True)
        output.unlink(missing_ok=True)


def _folders(trial: _Trial, folder: pathlib.Path) -> None:
    config = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 16}
    payload = pickle.dumps(_Payload(f"touch {trial.ran}"))
    for name in ("pytorch_model.bin", "model.safetensors", "flax_model.msgpack", "spiece.model"):
        given = folder / f"folder_{name}"
        given.mkdir()
        (given / "config.json").write_text(json.dumps(config))
        (given / name).write_bytes(payload)
        trial.run(f"a pickle as {name}", ["convert", f"--from={given}", f"--to={folder / 'c'}"], codes=(2,))
        shutil.rmtree(folder / "c", ignore_errors=True)


def _rows(trial: _Trial, folder: pathlib.Path, model: pathlib.Path, rows: SmallRun) -> None:
    command = f"touch {trial.ran}"
    texts = [
        f"__import__('os').system({command!r})", f"$({command})", f"`{command}`", f"{{{{ ''.__class__ }}}}; {command}",
        f"<script>{command}</script>", "[" * 100_000, "9" * 5000, "\\ud800",
    ]  # fmt: skip
    lines = [json.dumps({"id": f"r{n}", "question": text, "answer": text, "why": text}) for n, text in enumerate(texts)]
    lines += ['{"question": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"question": ' + "9" * 5000 + "}", "\0", "{"]
    lines += ['{"question": "a\\ud800", "answer": "b", "why": "c"}', '{"question": NaN, "answer": 1e999}']
    own = folder / "hostile.jsonl"
    own.write_text("\n".join(lines) + "\n")
    for path in [own, *sorted((SHARED / "hostile").glob("infer_*.jsonl"))]:
        output = folder / f"answers_{path.stem}.jsonl"
        argv = ["infer", f"--model_dir={model}", f"--input={path}", f"--output={output}", "--input_field=question"]
        trial.run(f"infer, {path.name}", argv, codes=(0, 2))
    fields = ["--field=input=question", "--field=rationale=why", "--field=label=answer"]
    for path in [own, *sorted((SHARED / "hostile").glob("train_*.jsonl"))]:
        changes = {"FILES": {"train": str(path), "test": str(rows.folder / "test.jsonl")}, "TRAIN_STEPS": 2}
        trial.run(f"train, {path.name}", ["train", *rows.arguments(folder / path.stem, **changes)], codes=(0, 2))
        data = ["data", f"--file=train={path}", *fields, "--answer=equation", "--vocabulary=bytes"]
        trial.run(f"data, {path.name}", data, codes=(0, 2))
        page = ["inspect", f"--inputs={path}", *fields, f"--output={folder / 'page.html'}"]
        trial.run(f"inspect, {path.name}", page, codes=(0, 2))
    bomb = folder / "bomb.yaml"
    aliases = "".join(f"  - &b{n + 1} [{','.join([f'*b{n}'] * 10)}]\n" for n in range(9))
    bomb.write_text(f"instructions:\n  - &b0 [{','.join('x' * 10)}]\n{aliases}")
    tag = folder / "tag.yaml"
    tag.write_text(f"instructions: !!python/object/apply:os.system ['{command}']\n")
    for path in (bomb, tag, *sorted((SHARED / "hostile").glob("*.yaml"))):
        argv = ["extract", f"--inputs={rows.folder / 'test.jsonl'}", *fields, f"--output={folder / 'o.jsonl'}"]
        argv += [f"--prompt={path}", "--model=m", "--base_url=http://127.0.0.1:9/v1"]
        trial.run(f"extract, {path.name}", argv, codes=(2,))


def main() -> None:
    """The command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    finish(run())


if __name__ == "__main__":
    main()
