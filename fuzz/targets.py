"""The targets: each gives bytes to one reader, which returns a value or raises its documented error, and nothing else."""

import dataclasses
import importlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from distill.validation import quoted
from fuzz import guard

Run = Callable[[bytes, Path], object]


class Finding(AssertionError):
    """A reader did something that it must not do."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """A target whose modules are imported.

    Attributes:
      run: gives the input to the reader; the folder is empty scratch space, and may stay changed.
      documented: the errors that the reader's documentation names.
      seeds: good inputs.
    """

    run: Run
    documented: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader to test.

    Attributes:
      name: of the target.
      kind: of the inputs, as in :func:`fuzz.mutations.mutated`.
      prepare: imports the modules.
      words: pieces of text that inputs of this kind contain.
      seconds: processor time that one input may take.
    """

    name: str
    kind: str
    prepare: Callable[[], Ready]
    words: tuple[str, ...] = ()
    seconds: float = 5.0


TARGETS: dict[str, Target] = {}


def target(kind: str, *words: str, seconds: float = 5.0) -> Callable[[Callable[[], Ready]], Callable[[], Ready]]:
    """Adds a function that prepares a target, under the function's name."""

    def add(prepare: Callable[[], Ready]) -> Callable[[], Ready]:
        TARGETS[prepare.__name__] = Target(prepare.__name__, kind, prepare, words, seconds)
        return prepare

    return add


def check(ready: Ready, data: bytes, folder: Path) -> str:
    """Gives one input to a target. Returns ``value`` or the name of the documented error.

    Raises:
      Finding: a forbidden effect, or an error without a message.
      Exception: any other error of the reader: a finding, too.
    """
    outcome = "value"
    with guard.watching(folder) as seen:
        try:
            ready.run(data, folder)
        except ready.documented as error:
            if type(error) not in ready.documented:
                # UnicodeDecodeError and JSONDecodeError are ValueErrors, but no messages for users.
                named = type(error).__module__.partition(".")[0] in ("distill", "fuzz")
                if not named:
                    raise
            outcome = type(error).__name__
            if not str(error).strip():
                raise Finding(f"{outcome} without a message") from error
    if seen:
        raise Finding("; ".join(seen))
    return outcome


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _lines(*rows: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


# -- Rows --------------------------------------------------------------------------------------------------------------

_ROWS = _lines(
    {"id": 1, "question": "what can hum ?", "answer": "ships", "why": "ships hum .", "choices": ["ships", "owls"]},
    {"id": "b", "question": "3 + 4 ?", "answer": "7", "why": "3 + 4 = 7", "weight": 0.5},
)
_CHOICES = _lines(
    {
        "question": {"stem": "who?", "choices": [{"label": "A", "text": "me"}, {"label": "B", "text": "you"}]},
        "answerKey": "A",
    },
    {"question": {"stem": "when?", "choices": {"label": ["A"], "text": ["now"]}}, "answerKey": "A", "reply": "(a) now"},
)


@target("lines", '"id"', "NaN", "Infinity", "1e999", "\ufeff", "\\ud800")
def rows() -> Ready:
    """``distill.tasks.json_files``: JSON lines and arrays, plain and compressed."""
    import gzip

    from distill.tasks import json_files
    from distill.tasks.records import RowError, SourceError

    def run(data: bytes, folder: Path) -> None:
        path = _written(folder, "rows.jsonl", data)
        for keep_blank in (False, True):
            for line, row in json_files.read_rows(path, "rows", keep_blank=keep_blank):
                if type(line) is not int or line < 1 or not isinstance(row, (dict, RowError)):
                    raise Finding(f"a row of another kind: {line!r} {quoted(row)}")
                if isinstance(row, dict):
                    json.dumps(row, allow_nan=False)

    return Ready(
        run, (SourceError,), (_ROWS, _CHOICES, b"[" + _ROWS.replace(b"\n", b",\n")[:-2] + b"]", gzip.compress(_ROWS))
    )


@target("json", "[", "]", "NaN", "1e999", "\ufeff")
def arrays() -> Ready:
    """``distill.tasks.json_files.read_array``: a file that holds one array."""
    from distill.tasks import json_files
    from distill.tasks.records import SourceError

    def run(data: bytes, folder: Path) -> None:
        json.dumps(json_files.read_array(_written(folder, "rows.json", data), "rows"), allow_nan=False)

    return Ready(run, (SourceError,), (b"[" + _ROWS.replace(b"\n", b",\n")[:-2] + b"]", b'[1, "a", [null]]'))


@target("lines", '"id"', '"weight"', '"choices"', "(a)", "NaN", "\\ud800", "So the answer is")
def training_rows() -> Ready:
    """``distill.tasks.jsonl``: rows to records, by a field mapping, templates and a parser."""
    from distill.tasks import jsonl
    from distill.tasks.records import Record, Report, SourceError

    plain = {"input": "question", "label": "answer", "rationale": "why"}
    nested = {
        "input": "{question.stem}\n{question.choices}",
        "label": "answerKey",
        "choices": "question.choices",
        "reply": "reply",
    }

    def run(data: bytes, folder: Path) -> None:
        path = _written(folder, "rows.jsonl", data)
        for fields, how in ((plain, {}), (nested, {"parser": "cqa"}), ({**plain, "solution": "why"}, {})):
            report = Report()
            try:
                for record in jsonl.JsonLines({"train": str(path)}, fields, **how)("train", report):
                    if not isinstance(record, Record):
                        raise Finding(f"no record: {quoted(record)}")
                    texts = (
                        record.id,
                        record.input,
                        record.label,
                        record.llm_label,
                        *record.rationales,
                        *record.choices,
                    )
                    "".join(text or "" for text in texts).encode("utf-8")
            except SourceError:
                pass
            str(report).encode("utf-8")

    return Ready(run, (SourceError,), (_ROWS, _CHOICES))


@target("lines", '"id"', '"question"', "NaN", "\\ud800")
def infer_rows() -> Ready:
    """``distill.inference.input_rows``: a line for every row, whatever the row holds."""
    from distill.inference import answers, infer, input_rows
    from distill.tasks.records import SourceError

    def run(data: bytes, folder: Path) -> None:
        path = _written(folder, "rows.jsonl", data)
        for field in ("question", "{question}</s>{answer}", "question.stem", "choices"):
            for row in input_rows.read(path, field):
                values = {"line": row.line, "id": row.id, "label": row.text, "error": row.error}
                json.loads(answers.line(values))
                answers.chained("", [row.fingerprint])
                infer.reason_of(row.error or "")

    return Ready(run, (SourceError,), (_ROWS, _CHOICES))


@target("json", "settings", "rows", "bytes", "reasons")
def answer_records() -> Ready:
    """``distill.inference.answers``: the record beside an output that is continued."""
    from distill.inference import answers

    seed = {
        "format": answers.FORMAT,
        "version": answers.VERSION,
        "settings": {"student": "best/4"},
        "rows": 2,
        "bytes": 9,
    }
    seed |= {"digest": "0" * 64, "answered": 1, "reasons": {"no input": 1}}

    def run(data: bytes, folder: Path) -> None:
        output = _written(folder, "answers.jsonl", b'{"line": 1}\n{"line": 2}\n')
        _written(folder, "answers.jsonl.run.json", data)
        out = answers.Answers(output, {"student": "best/4"})
        out.write([answers.line({"line": 3})], [[3]], ["no input"])

    return Ready(run, (ValueError, answers.AnotherRun), (json.dumps(seed).encode(),))


# -- Replies -----------------------------------------------------------------------------------------------------------

_REPLIES = (
    b"Ships hum. So the answer is (b) ships.\n\nQ: next",
    b"<think>hm</think> The pens cost 3 * 2.5 = $7.50. So the answer is ( 3.0 * 2.5 ).",
    b'```json\n{"rationale": "Because.", "label": "entailment"}\n```',
    b"**Answer:** \\boxed{(7 + 4) / 2}",
    b"Premise: a Hypothesis: b Question: Does the premise entail? entailment The answer is entailment because",
    b"48/2 = <<48/2=24>>24 clips.\n#### 24",
)
_MARKERS = (
    "So the answer is",
    "answer is",
    "####",
    "\\boxed{",
    "<think>",
    "</think>",
    "```",
    "(a)",
    "**",
    "<<",
    ">>",
    '{"label":',
)


@target("text", *_MARKERS)
def replies() -> Ready:
    """``distill.tasks.parsers`` and ``distill.teacher.prompts.parsing``: a teacher's text to rationale and label."""
    from distill.tasks import metrics, parsers
    from distill.tasks.records import Record
    from distill.teacher.clients.replies import Candidate
    from distill.teacher.prompts import parsing, templates

    prompts = [templates.load(name) for name in ("template", "cqa", "svamp", "esnli", "anli1")]

    def run(data: bytes, folder: Path) -> None:
        del folder
        text = data.decode("utf-8", "replace")
        for choices in ((), ("ships", "owls", "entailment")):
            for name in parsers.NAMES:
                for mode in ("improved", "strict"):
                    found = parsers.parse(name, text, choices, mode=mode)
                    if not isinstance(found.rationale, str) or not isinstance(found.label, str | None):
                        raise Finding(f"{name}: {quoted(found, 200)}")
            record = Record(id="1", input="what?", choices=choices)
            for prompt in prompts:
                for as_json in (False, True):
                    parsing.read_candidate(prompt, Candidate(text, "stop"), record, as_json=as_json, labels=("ships",))
        metrics.same_text(text, text[1:])

    return Ready(run, (), _REPLIES)


@target(
    "json",
    "choices",
    "message",
    "content",
    "finish_reason",
    "usage",
    "error",
    "tool_calls",
    "reasoning_content",
    "thought",
)
def reply_bodies() -> Ready:
    """``distill.teacher.clients.completion``: the body of a server's response, and the reply as it is stored."""
    from distill.teacher.clients import completion
    from distill.teacher.clients.replies import Reply, RequestFailedError

    chat = {
        "id": "r",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}}],
    }
    chat["usage"] = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9}
    parts = {
        "choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}]}}]
    }
    calls = {
        "choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}], "refusal": "no"}}]
    }
    error = {"error": {"message": "busy", "code": 503}, "choices": []}

    def run(data: bytes, folder: Path) -> None:
        del folder
        for samples in (1, 2, None):
            try:
                reply = completion.read(completion.decode(data), key="k", samples=samples)
            except RequestFailedError as failed:
                str(failed).encode("utf-8")
                continue
            if Reply.from_json("k", reply.to_json()).candidates != reply.candidates:
                raise Finding("a stored reply is another reply")

    return Ready(run, (RequestFailedError,), tuple(json.dumps(each).encode() for each in (chat, parts, calls, error)))


@target("lines", '"key"', '"id"', '"sample"', '"usage"', '"replies"')
def recorded_replies() -> Ready:
    """``distill.teacher.clients.recorded``: a file of recorded replies."""
    import asyncio

    from distill.tasks.records import SourceError
    from distill.teacher.clients.recorded import RecordedConfig
    from distill.teacher.clients.replies import Message, Request, RequestFailedError

    request = Request("a", "recorded", "m", messages=(Message("user", "what?"),))
    first = {
        "key": request.key,
        "replies": ["because"],
        "usage": [1, 2],
        "finish": "stop",
        "model": "m",
        "date": "2025",
    }
    second = {"id": "a", "sample": 0, "reply": "because", "purpose": "explain"}

    def run(data: bytes, folder: Path) -> None:
        teacher = RecordedConfig(str(_written(folder, "recorded.jsonl", data))).open()
        reply = asyncio.run(teacher.ask(request))
        reply.to_json()

    return Ready(run, (SourceError, RequestFailedError), (_lines(first), _lines(second, {**second, "id": 7})))


@target("text", "**", "//", "and", "or", "1e9", "0.1", "((((", "-", "%", "1/3")
def equations() -> Ready:
    """``distill.tasks.arithmetic``: an equation's exact value, or None."""
    from fractions import Fraction

    from distill.tasks import arithmetic, equation_text, metrics

    def run(data: bytes, folder: Path) -> None:
        del folder
        text = data.decode("utf-8", "replace")
        for junctions in (False, True):
            value = arithmetic.evaluate(text, junctions=junctions)
            if not isinstance(value, Fraction | None):
                raise Finding(f"no number: {quoted(value)}")
        arithmetic.same_value(text, "1 / 3")
        equation_text.clean_equation(text)
        equation_text.plain_equation(text)
        metrics.same_text(text, "1")

    return Ready(run, (), (b"( ( 17.0 + 15.0 ) + 2.0 )", b"(29 / 2) and (30 // 2) or 2 ** 64 % 7", b"-0.1e3 * 1_000"))


# -- Configurations ----------------------------------------------------------------------------------------------------

_GIN = b"""\
from __gin__ import dynamic_registration
from distill.model import config
from distill.training import losses

LAMBDA = @losses.linear_lambda()
WIDTH = 64
losses.TwoTaskLoss:
  lam = %LAMBDA
  normalizer = "task_tokens"
config.T5Config.embed_dim = %WIDTH
losses.linear_lambda.steps = 5
scope/losses.TwoTaskLoss.z_loss = 0.1
"""


@target(
    "text", "@", "%", "import", "from", "include", "os.system", "__builtins__", "__import__", "()", "gin.REQUIRED",
    "dynamic_registration", "distill.tasks.jsonl", "subprocess", "losses.jax", "'/etc/passwd'", "\\\n", "=",
    "--gin.LAMBDA=", seconds=60.0,
)  # fmt: skip
def gin_files() -> Ready:
    """``distill.api.configuration``: a gin file and overrides; lines that begin with ``--gin.`` are overrides."""
    from distill.api import configuration

    def run(data: bytes, folder: Path) -> None:
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        given = [line.removeprefix("--gin.") for line in lines if line.startswith("--gin.")]
        text = "\n".join(line for line in lines if not line.startswith("--gin."))
        path = _written(folder, "run.gin", text.encode("utf-8", "surrogateescape"))
        configuration.parse([str(path)], given)
        configuration.bindings_of(configuration.resolved())

    overrides = _GIN + b"--gin.LAMBDA=0.5\n--gin.losses.TwoTaskLoss.z_loss=%WIDTH\n--gin.WIDTH=5\n"
    used = _GIN + b"losses.TwoTaskLoss.label_smoothing = %SMOOTH\nSMOOTH = 0.5\n"
    values = _GIN + b"config.T5Config.mlp_activations = ('gelu', 'linear')\nlosses/X = True\n"
    values += b"config.T5Config.scan_layers = %losses/X\n"
    return Ready(run, (configuration.ConfigurationError,), (_GIN, overrides, used, values))


@target(
    "text",
    "MAX_DECODE_LEN",
    "evaluate.DecodeConfig.method",
    "partitioning.MeshConfig.data",
    "DTYPE",
    "[",
    "-1",
    "'beam'",
)
def infer_overrides() -> Ready:
    """``distill.cli.serving``: one override of ``infer`` and ``export`` per line."""
    from distill.cli import serving
    from distill.inference import student as students

    student = students.from_json(_student())

    def run(data: bytes, folder: Path) -> None:
        del folder
        serving.with_bindings(student, data.decode("utf-8", "surrogateescape").split("\n"))

    seeds = (b"MAX_DECODE_LEN = 5\nDTYPE = float32", b"evaluate.DecodeConfig.method = 'beam'\nEVAL_BATCH_SIZE=2")
    return Ready(run, (ValueError,), seeds)


def _student() -> bytes:
    from distill.inference import student as students
    from distill.model.config import T5Config

    model = T5Config(384, 64, 4, 16, 128, 2, 2)
    return students.Student(model=model, vocabulary="bytes").to_json().encode()


@target("json", "vocabulary", "model", "decode", "mesh", "num_encoder_layers")
def students() -> Ready:
    """``distill.inference.student``: ``student.json`` of a model directory."""
    from distill.inference import student

    def run(data: bytes, folder: Path) -> None:
        _written(folder, student.FILE, data)
        found = student.read(folder)
        student.read_vocabulary(folder, found)
        student.from_json(found.to_json())

    return Ready(run, (ValueError, FileNotFoundError), (_student(),))


@target("json", "axes", "bindings", "gin_files", "RANDOM_SEED", "joint_seeds", "x")
def sweeps() -> Ready:
    """``distill.experiments.sweep``: a sweep file and its grid of runs."""
    from distill.experiments import sweep
    from distill.experiments.sweep import runs

    seed = {
        "gin_files": ["gin/recipes/demo_student.gin"],
        "bindings": {"TRAIN_STEPS": 3},
        "directory": "sweeps",
        "x": "LAMBDA",
    }
    seed["axes"] = {
        "LAMBDA": [0.5, 1.0],
        "RANDOM_SEED": [0, 1],
        "method": {"a": {"gin_files": [], "bindings": {"PACK": True}}},
    }

    def run(data: bytes, folder: Path) -> None:
        found = sweep.read(_written(folder, "sweep.json", data))
        for each in found.runs():
            if each.directory.parent != found.directory or each.directory.name in (".", ".."):
                raise Finding(f"a run outside of the sweep's folder: {each.directory}")
        runs.grouped(found.runs(), joint_seeds=True)

    shipped = Path(importlib.import_module("distill").__file__ or "").parent / "gin" / "sweeps" / "demo.yaml"
    as_json = json.dumps(yaml.safe_load(shipped.read_bytes())).encode()
    return Ready(run, (sweep.SweepError, OSError), (json.dumps(seed).encode(), as_json))


@target(
    "text",
    "question:",
    "examples:",
    "{input}",
    "{label}",
    "{rationale}",
    "&a",
    "*a",
    "!!python/object:",
    "<<:",
    "- ",
    "parts:",
    "|",
)
def prompts() -> Ready:
    """``distill.teacher.prompts.templates``: a prompt file, and a row put into it."""
    from distill.teacher.prompts import templates

    folder = Path(templates.__file__).parent

    def run(data: bytes, scratch: Path) -> None:
        prompt = templates.load(_written(scratch, "prompt.yaml", data))
        try:
            prompt.messages("a question: {input} {label}", ("one", "two"), None)
            prompt.text("a</s>b", (), "label" if prompt.rationalise else None)
        except templates.InputShapeError:
            pass

    seeds = tuple((folder / f"{name}.yaml").read_bytes()[:3000] for name in ("template", "cqa", "esnli"))
    tiny = b'question: "Q: {input}\\nA:"\nanswer: "{rationale} So the answer is {label}."\n'
    tiny += b"examples:\n- {input: a, rationale: b, label: c}\n"
    return Ready(run, (templates.PromptError,), (tiny, *seeds))


# -- Checkpoints and caches --------------------------------------------------------------------------------------------


@target("json", "seed", "draws", "consumed", "data", "best_step", "stopped", "vocab_size", "accuracy")
def checkpoint_items() -> Ready:
    """``distill.checkpoints.schemas``: position, progress, model and metrics of a step; and their use."""
    import dataclasses as dc

    from etils import epath

    from distill.checkpoints import schemas
    from distill.checkpoints.digests import Damaged
    from distill.training.config import Progress

    position = {"seed": 0, "draws": 5, "consumed": {"task": 5}, "data": {"task": "0" * 16}}
    model = dc.asdict(_config()) | {"mlp_activations": ["gelu", "linear"]}

    def run(data: bytes, folder: Path) -> None:
        for item in ("position", "progress", "model", "metrics"):
            _written(folder, f"{item}/{'metrics' if item == 'metrics' else 'metadata'}", data)
            try:
                value = schemas.read_json(epath.Path(folder), item)
            except Damaged as error:
                if "\n" in str(error):
                    raise Finding(f"not one line: {error!s:.200}") from error
                continue
            json.dumps(value)
            if item == "progress":
                progress = schemas_progress(value)
                progress.validated(7, 0.5, 3)
        return

    def schemas_progress(value: dict[str, Any]) -> Any:
        known = {field.name for field in dc.fields(Progress)}
        return Progress(**{name: each for name, each in value.items() if name in known})

    seeds = (position, dc.asdict(Progress()), model, {"accuracy": 0.5})
    return Ready(run, (Damaged,), tuple(json.dumps(each).encode() for each in seeds))


def _config() -> Any:
    from distill.model.config import T5Config

    return T5Config(384, 64, 4, 16, 128, 2, 2)


@target("json", "files", "sha256", "xxh3_128", "bytes", "../", "params/array", "version")
def digests() -> Ready:
    """``distill.checkpoints.digests``: ``digests.json`` of a step; its own digest is also corrected after the damage."""
    from distill.checkpoints import digests as module

    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    files = {"params/array": {"bytes": 3, "sha256": sha256, "xxh3_128": "06b05ab6733a618578af5f94892f3950"}}
    files["progress/metadata"] = {"bytes": 0, "sha256": "0", "xxh3_128": "0"}
    second = {name: {"bytes": each["bytes"], "sha256": each["sha256"], "blake3": "0"} for name, each in files.items()}
    pairs = {name: (each["bytes"], each["sha256"]) for name, each in files.items()}
    seeds = tuple(
        json.dumps(
            {"format": module.FORMAT, "version": version, "files": listed, "sha256": module._own_digest(listed)}
        ).encode()
        for version, listed in ((module.VERSION, files), (2, second), (1, pairs))
    )

    def run(data: bytes, folder: Path) -> None:
        _written(folder, "params/array", b"abc")
        _written(folder, "progress/metadata", b"")
        variants = [data]
        try:
            raw = json.loads(data)
            variants.append(json.dumps({**raw, "sha256": module._own_digest(raw["files"])}).encode())
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        for variant in variants:
            _written(folder, module.FILE, variant)
            for kind in ("xxh3_128", "sha256"):
                try:
                    module.check(folder, kind)
                except module.Damaged as error:
                    if "\n" in str(error):
                        raise Finding(f"not one line: {error!s:.200}") from error

    return Ready(run, (module.Damaged,), seeds)


@target(
    "json",
    "tasks",
    "settings",
    "rows",
    "rows_sha256",
    "records",
    "index",
    "shards",
    "sha256",
    "bytes",
    "file",
    "../../x",
    "train",
    "set_label",
)
def cache_manifests() -> Ready:
    """``distill.data.cache.manifest``: what reading a cache does with its manifest."""
    from distill.data.cache import manifest

    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    file = {"file": "index/set_label-train.npy", "bytes": 3, "sha256": digest}
    entry = {"examples": 1, "slots": 1, "index": file, "shards": [file | {"examples": 1}], "rejected": 0}
    seed = {"format": manifest.FORMAT, "version": "0.1", "task_names": ["set_label"], "shards": 1, "tfrecord": False}
    seed |= {"settings": {"dataset": "set", "seed": 0}, "rows_sha256": {"train": digest}}
    rows = {"train": {"records": 1, "with_rationale": 0, "input_keys": file}}
    seed |= {"rows": rows, "tasks": {"set_label": {"train": entry}}}

    def run(data: bytes, folder: Path) -> None:
        _written(folder, "index/set_label-train.npy", b"abc")
        _written(folder, manifest.FILE, data)
        found = manifest.read(folder)
        one = manifest.entry(folder, found, "set_label", "train")
        manifest.check_settings(folder, found["settings"], {"dataset": "set", "seed": 0}, "Build another.")
        known = found["rows"]["train"]
        found["rows_sha256"]["train"][:12] + "…"
        for each in (known["input_keys"], *manifest.files([one], tfrecords=False)):
            path = folder / each["file"]
            if not path.resolve().is_relative_to(folder.resolve()):
                raise Finding(f"a file outside of the cache: {path}")
            manifest.check_file(manifest.epath.Path(path), each)
        (
            sum(shard["examples"] for shard in one["shards"])
            + one["examples"]
            + one["slots"]
            + known["records"]
            + known["with_rationale"]
        )

    return Ready(run, (ValueError,), (json.dumps(seed).encode(),))


@target("bytes", "'descr'", "'shape'", "|O", "<i4", "encoder_input_tokens.npy")
def token_windows() -> Ready:
    """``distill.data.token_batches``: a file of windows, and the batches of the values that pass its checks."""
    import numpy as np

    from distill.data import token_batches

    tokens = np.array([[5, 6, 1, 0], [7, 1, 0, 0]], np.int32)
    arrays = dict.fromkeys(("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"), tokens)
    arrays["decoder_task_ids"] = np.minimum(tokens, 1)
    others = {"decoder_loss_weights": np.ones((2, 4), np.float32), "examples": np.ones(2)}
    held = io.BytesIO()
    np.savez(held, **arrays, **others)

    def run(data: bytes, folder: Path) -> None:
        path = _written(folder, "windows.npz", data)
        batches = token_batches.TokenBatches(token_batches.Windows.read(path), 3)
        batches.lengths()
        for _ in range(3):
            batch = next(batches)
            if batch.arrays["encoder_input_tokens"].min() < 0 or batch.examples < 0:
                raise Finding("a negative token or number of examples was accepted")

    return Ready(run, (ValueError,), (held.getvalue(),))


@target("safetensors", "F32", "BF16", "I64", "dtype", "shape", "data_offsets", "__metadata__")
def safetensors_files() -> Ready:
    """``distill.checkpoints.huggingface.weights_folder``: the header of safetensors weights, and the tensors."""
    import numpy as np
    import safetensors.numpy

    from distill.checkpoints.huggingface import weights_folder

    arrays = {
        "shared.weight": np.ones((2, 3), np.float32),
        "b": np.zeros((4,), np.float16),
        "c": np.zeros((), np.int64),
    }

    def run(data: bytes, folder: Path) -> None:
        _written(folder, weights_folder.SINGLE_FILE, data)
        with weights_folder.WeightsFolder(folder) as weights:
            for name, info in weights.tensors.items():
                try:
                    found = weights.read(name)
                except ValueError as error:
                    if type(error) is not ValueError:
                        raise
                    continue
                if found.dtype != np.float32 or found.shape != info.shape:
                    raise Finding(f"{name}: {found.dtype} {found.shape}, the header gives {info}")

    return Ready(run, (ValueError,), (safetensors.numpy.save(arrays), safetensors.numpy.save(arrays, {"format": "pt"})))


@target("json", "weight_map", "model.safetensors", "../x.safetensors", "a.safetensors")
def safetensors_indexes() -> Ready:
    """``distill.checkpoints.huggingface.weights_folder``: the index of sharded weights."""
    import numpy as np
    import safetensors.numpy

    from distill.checkpoints.huggingface import weights_folder

    shard = safetensors.numpy.save({"a": np.ones((2,), np.float32), "b": np.ones((1,), np.float32)})

    def run(data: bytes, folder: Path) -> None:
        _written(folder, "part.safetensors", shard)
        _written(folder, weights_folder.INDEX_FILE, data)
        with weights_folder.WeightsFolder(folder) as weights:
            for name in weights.tensors:
                weights.read(name)

    seed = {"metadata": {"total_size": 12}, "weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}
    return Ready(run, (ValueError,), (json.dumps(seed).encode(),))


@target(
    "json",
    "model_type",
    "t5",
    "umt5",
    "num_layers",
    "d_model",
    "feed_forward_proj",
    "tie_word_embeddings",
    "quantization_config",
)
def huggingface_configs() -> Ready:
    """``distill.checkpoints.huggingface.config``: ``config.json`` of a model."""
    from distill.checkpoints.huggingface import config, weights_folder

    def run(data: bytes, folder: Path) -> None:
        fields = weights_folder.read_json(_written(folder, "config.json", data))
        found = config.config_from_hf(fields)
        config.config_to_hf(found, fields["model_type"])

    return Ready(run, (ValueError,), (json.dumps(config.config_to_hf(_config())).encode(),))


@target(
    "msgpack",
    "version",
    "optimizer",
    "kvstore",
    "metadata",
    "driver",
    "zarr",
    "file",
    "PLACEHOLDER://a",
    "../a",
    "shape",
    "<f4",
)
def t5x_indexes() -> Ready:
    """``distill.checkpoints.t5x.index``: the msgpack file of a T5X checkpoint, and the arrays in it."""
    import numpy as np
    from flax import serialization

    from distill.checkpoints.t5x import index

    array = {"target": {"w": np.ones((2, 2), np.float32), "n": np.int32(3), "x": 1.5}}
    described = {"state": {"step": 4}, "target": {"w": index.describe("target.w", (2, 2), (2, 2), None, gcs=False)}}
    place = {"target": {"w": "PLACEHOLDER://target.w"}}

    def run(data: bytes, folder: Path) -> None:
        tree = index.read(_written(folder, index.INDEX_FILE, data))
        for tensor in index.tensors(tree, folder, "checkpoint").values():
            try:
                tensor.read()
            except ValueError as error:
                if type(error) is not ValueError:
                    raise

    seeds = ({"version": 3, "optimizer": array}, {"version": 3, "optimizer": described}, place)
    return Ready(run, (ValueError,), tuple(serialization.msgpack_serialize(each) for each in seeds))


@target("bytes")
def sentencepiece_models() -> Ready:
    """``distill.tasks.plain_vocabularies``: a SentencePiece model, and a text through it."""
    import sentencepiece

    from distill.tasks import plain_vocabularies

    texts = [f"word{n} some other word {n % 7} again" for n in range(60)]
    seeds = []
    for kind in ("unigram", "bpe"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=40, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            model_type=kind, hard_vocab_limit=False, minloglevel=2, num_threads=1, normalization_rule_name="identity",
        )  # fmt: skip
        seeds.append(model.getvalue())

    def run(data: bytes, folder: Path) -> None:
        path = _written(folder, "vocabulary.model", data)
        for extra in (0, 2):
            try:
                vocabulary = plain_vocabularies.read(path, extra)
            except ValueError as error:
                if type(error) is not ValueError:
                    raise
                continue
            ids = vocabulary.encode("some word é\u2028 again")
            vocabulary.decode([*ids, 5, 10**6, 1, 3])

    return Ready(run, (ValueError,), tuple(seeds))
