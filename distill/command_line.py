"""The flags of every command of ``distill``."""

import argparse

from distill import flags
from distill.precompile import command as precompile

_EXTRACT = "ask a teacher for rationales and labels, keeping every reply"
_INSPECT = "draw a report of a set of records as one HTML page"


def _positive(text: str) -> int:
    """A flag's whole number of at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1; got {text!r}")
    return int(text)


def parser(wants: str = "") -> argparse.ArgumentParser:
    """The parser; ``wants`` is the command about to run, since the teacher's flags cost an import."""
    whole = argparse.ArgumentParser(
        prog="distill",
        description="Distilling step-by-step: train small T5 students on a teacher's answers and reasons.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str, configured: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("-v", "--verbose", action="store_true", help="log what the libraries say, too")
        if configured:
            command.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="in order; may repeat")
            command.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
            command.add_argument(
                "--gin_search_paths", default="", metavar="DIR,…", help="more folders to look for gin files in"
            )
            command.add_argument(
                "--gin_module", action="append", default=[], metavar="MODULE", help="a module that gin files may import"
            )
            command.epilog = "--gin.NAME=VALUE overrides any macro or binding of the files."
        return command

    train = add("train", "train a student, or go on with one")
    cache = add("cache", "tokenise a data set once and write it as files to train from")
    cache.add_argument("--output", required=True, help="a new or empty folder, local or gs://")
    cache.add_argument("--shards", type=int, default=1, help="files a split, at most")
    cache.add_argument("--tfrecord", action="store_true", help="write TFRecords, too, which tfds.load reads")
    evaluate = add("eval", "score a trained student on a split")
    infer = add("infer", "answer JSON lines with a trained student")
    for command in (train, evaluate):
        command.add_argument(
            "--multiprocess",
            action="store_true",
            help="one process of several; TPU pods, GKE, Slurm and MPI are recognised",
        )
        command.add_argument(
            "--coordinator_address", metavar="HOST:PORT", help="of process 0, where nothing is recognised"
        )
        command.add_argument("--num_processes", type=int)
        command.add_argument("--process_id", type=int)
        command.add_argument(
            "--heartbeat_timeout_seconds",
            type=_positive,
            default=100,
            help="a process silent for so long is dead, which ends all others; default: 100",
        )
    export = add("export", "write a trained student for transformers, CTranslate2 or T5X")
    export.add_argument("--output", required=True, help="a new or empty folder")
    export.add_argument("--format", choices=("hf", "ct2", "t5x"), default="hf")
    export.add_argument("--quantization", help="with ct2: int8 or another of CTranslate2's")
    for command in (evaluate, infer, export):
        command.add_argument("--model_dir", help="a trained model's directory; its configuration is read from there")
    infer.add_argument("--input", required=True, help="JSON lines with an 'input' each")
    infer.add_argument(
        "--output", required=True, help="JSON lines, in the order of the input; an unfinished file is gone on with"
    )
    infer.add_argument("--input_field", default="input", help="the field that holds the input")
    infer.add_argument("--rationale", action="store_true", help="generate the rationale, too")
    evaluate.add_argument("--split", default="test", help="which split to score")
    data = add("data", "say what is in the data: rows, failed parses, agreement, lengths", configured=False)
    data.add_argument(
        "--data_dir", required=True, help="holds the sets in the paper's layout: DIR/svamp/svamp_train.json …"
    )
    data.add_argument("--set", action="append", default=[], metavar="NAME", help="only this set; may repeat")
    data.add_argument("--vocabulary", default="t5", help="t5, mt5, bytes or the path of a SentencePiece model")
    data.add_argument("--inputs", type=int, default=512, help="planned input length")
    data.add_argument("--targets", type=int, default=256, help="planned target length")
    data.add_argument("--teacher", default="palm", help="palm, gpt-neox, human or none")
    data.add_argument("--failures", action="store_true", help="list every row that failed or that is read differently")
    data.add_argument("--json", action="store_true", help="print JSON")
    sweep = add("sweep", "run a grid of trainings; finished ones are never repeated", configured=False)
    sweep.add_argument("sweep", help="the sweep's JSON file")
    sweep.add_argument("--directory", help="where its runs go, instead of the file's own")
    sweep.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
    sweep.add_argument("--gin_search_paths", default="", help=argparse.SUPPRESS)
    sweep.add_argument("--gin_module", action="append", default=[], metavar="MODULE", help="a module to trust")
    sweep.add_argument("--report_only", action="store_true", help="only gather what is there")
    sweep.add_argument("--retry_failed", action="store_true", help="repeat runs that failed before")
    sweep.epilog = "--gin.NAME=VALUE adds a binding to every run."
    demo = add(
        "demo", "train a small student with and without rationales, here and now, and draw what comes out", False
    )
    demo.add_argument("--directory", default="demo_output", help="where everything goes")
    demo.add_argument("--sweep", default="gin/sweeps/demo.json", help="another grid over the same task")
    demo.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
    demo.set_defaults(gin_search_paths="", gin_module=[], retry_failed=True)
    demo.epilog = "--gin.NAME=VALUE adds a binding to every run."
    if wants in ("extract", "inspect"):
        from distill.teacher import commands as teacher_commands

        extract = add("extract", _EXTRACT, configured=False)
        flags.add(extract, teacher_commands.run_extract)
        look = add("inspect", _INSPECT, configured=False)
        flags.add(look, teacher_commands.run_inspect)
    else:
        add("extract", _EXTRACT, configured=False)
        add("inspect", _INSPECT, configured=False)
    flags.add(
        add("precompile", "compile a run's steps for TPUs without one, and say what they need and could do"),
        precompile.Settings,
    )
    add("config", "check a configuration and print it, resolved, without running anything")
    return whole
