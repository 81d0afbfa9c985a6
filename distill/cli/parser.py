"""The flags of every command of ``distill``."""

import argparse
import re
import textwrap
from collections.abc import Sequence

import distill
from distill.cli import flag_types, flags, process_flags, sweep_flags
from distill.cli.spelling import Parser
from distill.precompile import command as precompile
from distill.tools import convert, vocabulary_command

_EXTRACT = "collect rationales and labels from a teacher, and store every reply"
_INSPECT = "write a report on a file of records as one HTML page"
_SHELLS = ("bash", "zsh", "fish")
_RUN_FILES = "--gin_file=gin/models/t5_1_1_small.gin --gin_file=gin/tasks/svamp.gin --gin_file=gin/runs/distill.gin"
EXAMPLES = {
    "example": "distill example --output=rows",
    "extract": "distill extract --inputs=rows.jsonl --output=train.jsonl --prompt=cqa --model=qwen3:8b \\\n"
    "  --base_url=http://localhost:11434/v1",
    "prompt": "distill prompt template > my_task.yaml",
    "inspect": "distill inspect --inputs=train.jsonl --output=report.html",
    "train": f"distill train {_RUN_FILES} \\\n"
    "  --gin_file=gin/hardware/cpu.gin --gin.DATA_DIR=data --gin.MODEL_DIR=runs/svamp",
    "cache": f"distill cache {_RUN_FILES} \\\n  --gin_file=gin/hardware/cpu.gin --gin.DATA_DIR=data --output=cached",
    "replay": "distill replay runs/svamp",
    "eval": "distill eval --model_dir=runs/svamp --split=validation",
    "infer": "distill infer --model_dir=runs/svamp --input=questions.jsonl --output=answers.jsonl",
    "export": "distill export --model_dir=runs/svamp --output=exported --format=hf",
    "data": "distill data --file=train=rows.jsonl --field=input=question --vocabulary=bytes",
    "profile": "distill profile runs/svamp",
    "sweep": "distill sweep gin/sweeps/demo.yaml --directory=sweeps/demo",
    "demo": "distill demo --directory=demo_output",
    "report": "distill report sweeps/rates --output=report.html",
    "precompile": f"distill precompile {_RUN_FILES} \\\n  --gin_file=gin/hardware/tpu_v5e_16.gin --topology=v5e:4x4",
    "config": f"distill config {_RUN_FILES} \\\n"
    "  --gin_file=gin/hardware/cpu.gin --gin.DATA_DIR=data --gin.MODEL_DIR=runs/svamp",
    "convert": "distill convert --from=google/flan-t5-base --to=flan_t5_base --to_format=distill",
    "vocabulary": "distill vocabulary --input=rows.jsonl --fields=question,why,answer --size=4000 --output=rows.model",
    "launch": "distill launch gcloud --tpu=my-tpu --zone=us-west4-a --dry-run -- \\\n"
    "  train --gin_file=gin/recipes/paper_svamp.gin --gin_file=gin/hardware/tpu_v5e_16.gin",
    "completion": "distill completion bash > ~/.local/share/bash-completion/completions/distill",
}


def split_arguments(arguments: Sequence[str]) -> list[str]:
    """Rewrites T5X's ``--gin.NAME=value`` as ``--gin_bindings=NAME=value``, which a flag parser understands."""
    out = []
    for argument in arguments:
        match = re.match(r"^--gin\.(?P<key>[^=]+)=(?P<value>.*)$", argument, re.DOTALL)
        out.append(f"--gin_bindings={match['key']} = {match['value']}" if match else argument)
    return out


def parser(wants: str = "") -> argparse.ArgumentParser:
    """The parser; ``wants`` is the command to be run: the teacher's flags and the help of ``sweep`` need an import."""
    whole = Parser(
        prog="distill",
        description="Distilling step-by-step: train small T5 students on a teacher's answers and reasons.",
    )
    whole.add_argument(
        "--version", action="version", version=f"distill {distill.__version__}", help="print the version"
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of:")

    def add(name: str, help: str, configured: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("-v", "--verbose", action="store_true", help="show the logs of libraries, and tracebacks")
        command.add_argument("-q", "--quiet", action="store_true", help="print results and errors only, no progress")
        if configured:
            command.add_argument(
                "--gin_file",
                action="append",
                default=[],
                metavar="FILE",
                help="configuration file, own or shipped; later ones override earlier ones; may repeat",
            )
            command.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
            command.add_argument(
                "--gin_search_paths", default="", metavar="DIR,…", help="more folders to search for gin files"
            )
            command.add_argument(
                "--gin_module",
                action="append",
                default=[],
                metavar="MODULE",
                help="your own module that gin files may import and name; may repeat",
            )
            command.epilog = "--gin.NAME=VALUE overrides any macro or binding of the files."
        return command

    example = add("example", "write a small data set with rationales, and a vocabulary, to train on", configured=False)
    example.add_argument("--output", required=True, metavar="DIR", help="folder for the files; existing files are kept")
    example.add_argument("--train_rows", type=flag_types.positive, default=6000, help="training rows; default: 6000")
    example.add_argument("--seed", type=int, default=0, help="seed of the questions; default: 0")
    train = add("train", "train a student, or continue a stopped run")
    replay = add("replay", "rerun the batch of an update with nan or infinity, and report statistics of every layer")
    replay.add_argument("model_dir", metavar="MODEL_DIR", help="the directory of the run")
    replay.add_argument("--step", type=flag_types.positive, help="the update; default: the newest in MODEL_DIR/replay")
    replay.add_argument(
        "--exact", action="store_true", help="first repeat the updates between the checkpoint and the step"
    )
    replay.add_argument("--json", action="store_true", help="print JSON")
    cache = add("cache", "tokenise a data set once and write it to files for training")
    cache.add_argument("--output", required=True, help="a new or empty folder, local or gs://")
    cache.add_argument("--shards", type=int, default=1, help="files per split, at most; default: 1")
    cache.add_argument("--tfrecord", action="store_true", help="also write TFRecords, for tfds.load")
    cache.add_argument("--beam_runner", metavar="NAME", help="build on Apache Beam: direct, dataflow or flink")
    cache.add_argument(
        "--beam_pipeline_options", metavar="K=V,…", help="options of Apache Beam; runner=NAME may be one"
    )
    cache.add_argument(
        "--dry_run", action="store_true", help="check and print the pipeline of Apache Beam; run nothing"
    )
    evaluate = add("eval", "score a trained student on a split")
    evaluate.epilog = (
        f"{evaluate.epilog} To choose each answer among given texts, as --choices of infer does: "
        "docs/evaluation-and-inference.md#choosing-an-answer."
    )
    infer = add("infer", "answer JSON lines with a trained student", configured=False)
    for command in (train, evaluate):
        process_flags.add(command)
    export = add("export", "write a trained student for transformers, CTranslate2 or T5X", configured=False)
    for command in (infer, export):
        command.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
        command.epilog = (
            "--gin.NAME=VALUE sets MAX_DECODE_LEN, MAX_INPUT_LEN, EVAL_BATCH_SIZE, EVAL_FORM, DTYPE, or another setting "
            "of decoding or of the mesh (docs/evaluation-and-inference.md)."
        )
    infer.epilog = f"{infer.epilog} " + (
        "Decoding with int8 weights needs less memory (docs/evaluation-and-inference.md#int8-weights). "
        "A row that cannot be answered gets a line with the reason; the last lines count such rows. The exit code is 0 if "
        "at least one row has an answer, and 2 if none has."
    )
    export.add_argument("--output", required=True, help="a new or empty folder")
    export.add_argument("--format", choices=("hf", "ct2", "t5x"), default="hf", help="the format to write; default: hf")
    export.add_argument("--quantization", help="with ct2: int8 or another quantization of CTranslate2")
    evaluate.add_argument("--model_dir", help="a trained model's directory; its configuration is read from there")
    for command in (infer, export):
        command.add_argument("--model_dir", help="a trained model's directory; student.json is read from there")
    infer.add_argument(
        "--input",
        required=True,
        type=flag_types.input_file,
        help="JSON lines, or one array of objects; may be compressed by gzip; -: standard input",
    )
    infer.add_argument(
        "--output",
        required=True,
        help="JSON lines, in the order of the input; an unfinished file is continued; -: standard output",
    )
    infer.add_argument(
        "--input_field", help="the field that holds the input, or a template of fields; default: as in training"
    )
    infer.add_argument(
        "--choices",
        type=flag_types.choices,
        metavar="FIELD|LIST",
        help="answer with the most probable choice: the field that holds a row's choices, or the choices of all rows as a "
        """list, such as '["yes", "no"]'; default: generate the answer, unless the student was trained to choose""",
    )
    infer.add_argument("--rationale", action="store_true", help="also generate the rationale")
    infer.add_argument(
        "--max_rationale_len",
        type=flag_types.positive,
        metavar="N",
        help="with --rationale: tokens of a rationale at most, EOS included; default: 256",
    )
    infer.add_argument(
        "--shard",
        type=flag_types.shard,
        metavar="I/N",
        help="answer only the I-th of N blocks of rows, on one of N machines; cat joins the N outputs",
    )
    infer.add_argument("--overwrite", action="store_true", help="answer all rows again, and replace the output")
    evaluate.add_argument("--split", default="test", help="the split to score; default: test")
    evaluate.add_argument("--output", help="the folder for predictions and metrics; default: in the model directory")
    data = add("data", "report on a data set: rows, failed parses, agreement, lengths")
    data.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="SPLIT=FILE",
        help="JSON rows of a split, a file or a pattern, such as train=rows.jsonl; may repeat",
    )
    data.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=FIELD",
        help="with --file: the row field that holds a record field, such as input=question; may repeat",
    )
    data.add_argument(
        "--answer", choices=("text", "choice", "equation"), default="text", help="with --file: how answers are compared"
    )
    data.add_argument("--data_dir", help="folder of the paper's data sets: DIR/svamp/svamp_train.json …")
    data.add_argument("--set", action="append", default=[], metavar="NAME", help="only this set; may repeat")
    data.add_argument(
        "--vocabulary", help="t5, mt5, bytes or the path of a SentencePiece model; default: VOCABULARY_PATH, else t5"
    )
    data.add_argument(
        "--inputs",
        type=flag_types.positive,
        help="planned input length in tokens; default: TASK_FEATURE_LENGTHS, else 512",
    )
    data.add_argument(
        "--targets",
        type=flag_types.positive,
        help="planned target length in tokens; default: TASK_FEATURE_LENGTHS, else 256",
    )
    data.add_argument(
        "--teacher",
        choices=("palm", "gpt-neox", "human", "none"),
        default="palm",
        help="with --data_dir: the source of the rationales; default: palm",
    )
    data.add_argument(
        "--failures",
        action="store_true",
        help="list every row that was rejected or failed to parse, lacks a label or a rationale, would be truncated, or is "
        "read differently by the strict and the improved parser",
    )
    data.add_argument("--json", action="store_true", help="print JSON")
    data.epilog = "With --gin_file, --gin.NAME=VALUE overrides any macro or binding of the files."
    profile = add("profile", "summarise a trace of training steps: the operations that take longest", configured=False)
    profile.add_argument(
        "model_dir", help="the directory of a run that was trained with --gin.PROFILE_STEPS=(first, last)"
    )
    profile.add_argument("--top", type=flag_types.positive, default=25, help="operations to show; default: 25")
    profile.add_argument(
        "--by_instruction",
        action="store_true",
        help="list instructions of one kind separately, such as dot.12 and dot.13",
    )
    sweep = add("sweep", "train the runs of a sweep file; finished runs are not repeated", configured=False)
    sweep_flags.add(sweep)
    demo = add("demo", "train small students with and without rationales, and plot their accuracy", False)
    demo.add_argument("--directory", default="demo_output", help="folder for all output; default: demo_output")
    demo.add_argument(
        "--sweep", default="gin/sweeps/demo.yaml", help="another grid over the same task; default: gin/sweeps/demo.yaml"
    )
    demo.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
    demo.set_defaults(gin_search_paths="", gin_module=[], retry_failed=True)
    demo.epilog = "--gin.NAME=VALUE adds a binding to every run."
    report = add("report", "write one HTML page on runs: curves, comparisons, answers, cost", configured=False)
    report.add_argument(
        "runs", nargs="+", metavar="RUNS", help="folders of sweeps, model directories, or folders of these"
    )
    report.add_argument(
        "--output",
        default="report.html",
        help="the page; .md, .csv and .png are written beside it; default: report.html",
    )
    report.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files in the place of the page and its twins that are no report",
    )
    report.add_argument("--title", default="", help="heading of the page")
    report.add_argument("--metric", default="", help="the test metric; default: the one that selected on validation")
    report.add_argument(
        "--data",
        default="",
        metavar="FINGERPRINT",
        help="report on the runs with these test rows (a prefix suffices); all: on each set of test rows separately",
    )
    report.add_argument(
        "--compare",
        default="",
        metavar="PAIRS",
        help="the pairs: all, best (the selected setting against each other one), AXIS (its levels), or AXIS=LEVEL (each "
        "other level against this one); default: all up to 15 pairs",
    )
    report.add_argument(
        "--price_per_chip_hour", type=float, metavar="PRICE", help="price of a chip per hour; adds the costs"
    )
    if wants in ("extract", "inspect"):
        from distill.cli import teacher as teacher_commands

        extract = add("extract", _EXTRACT, configured=False)
        flags.add(extract, teacher_commands.run_extract, *teacher_commands.DESCRIBED)
        look = add("inspect", _INSPECT, configured=False)
        flags.add(look, teacher_commands.run_inspect)
    else:
        add("extract", _EXTRACT, configured=False)
        add("inspect", _INSPECT, configured=False)
    prompt = add("prompt", "print a shipped prompt of a teacher, to copy and change", configured=False)
    prompt.add_argument("name", metavar="NAME", help="template, cqa, svamp or another; an unknown name lists them")
    flags.add(
        add(
            "precompile", "compile a run's steps for a TPU slice without a TPU, and report memory, least time and cost"
        ),
        precompile.Settings,
    )
    add("config", "check a configuration and print it resolved; run nothing")
    convert.add_arguments(
        add("convert", "convert a checkpoint between Hugging Face, T5X and this program", configured=False)
    )
    vocabulary_command.add_arguments(
        add("vocabulary", "train a SentencePiece vocabulary with T5's special ids on your text", configured=False)
    )
    add(
        "launch",
        "start a command on TPU pods, GPU clusters or hosts: distill launch hosts --host=me@10.0.0.1 -- train …",
        configured=False,
    )
    completion = add("completion", "print a script that completes commands and flags in a shell", configured=False)
    completion.add_argument("shell", choices=_SHELLS, help="the shell")
    for name, command in commands.choices.items():
        if name in EXAMPLES:
            parts = [*_filled(command.epilog), f"Example:\n  {EXAMPLES[name]}"]
            if name == "sweep" and wants == "sweep":
                from distill.experiments.sweep import schema

                parts.append(schema.described())
            command.epilog = "\n\n".join(parts)
            command.formatter_class = argparse.RawDescriptionHelpFormatter
    return whole


def of_command(name: str) -> argparse.ArgumentParser:
    """The parser of one command, which has the defaults of its flags."""
    commands = next(action for action in parser(name)._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[name]


def _filled(text: str | None) -> list[str]:
    """A text's paragraphs, in lines of a terminal's width."""
    return [textwrap.fill(" ".join(paragraph.split()), 80) for paragraph in (text or "").split("\n\n") if paragraph]
