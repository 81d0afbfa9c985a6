"""Answers for JSON lines: one line out for every line in, in order, and restartable."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import seqio
from flax import linen as nn

from distill import choices, partitioning
from distill.checkpoints import restore_student
from distill.evaluate import DecodeConfig, Decoder, Prediction
from distill.network import T5Config
from tasks import jsonl, preprocessors
from tasks.dataset import Dataset
from tasks.records import RowError

FORMS = ("label", "single", "shared_label")
"""How a student can be asked for a label."""


@dataclasses.dataclass(frozen=True)
class InferReport:
    """What was done: rows answered now, rows found answered already, and rows that could not be read."""

    answered: int
    found: int
    failed: int


def infer(
    input_path: str,
    output_path: str,
    *,
    model_dir: str,
    model: T5Config,
    dataset: Dataset,
    vocabulary: seqio.Vocabulary,
    label_prefix: str = "[label] ",
    rationale_prefix: str = "[rationale] ",
    form: str = "label",
    decode: DecodeConfig = DecodeConfig(),
    rationale_decode: DecodeConfig | None = None,
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    input_field: str = "input",
    rationale: bool = False,
    chunk: int = 1024,
) -> InferReport:
    """Answers every line of ``input_path`` into ``output_path``.

    Args:
      input_path: JSON lines; each an object that holds the input.
      output_path: JSON lines: ``line`` (from 1), the row's own ``id`` if it has one, ``label``, ``score`` (the answer's
        log-probability, nats), with ``rationale=True`` also ``rationale``. A line that cannot be read gives ``line`` and
        ``error``. If the file exists, its complete lines are kept and the rest is answered.
      model_dir: where the student was trained.
      model: the student.
      dataset: the data set it was trained on, for how inputs are joined.
      vocabulary: its vocabulary.
      label_prefix, rationale_prefix: the task prefixes it was trained with.
      form: ``label``; ``single`` for a student that gives rationale and label in one target; ``shared_label`` for one whose
        targets, not inputs, begin with the prefixes.
      decode: how labels are decoded.
      rationale_decode: how rationales are; None: as labels, 256 tokens long.
      mesh, rules: see :mod:`distill.partitioning`.
      input_field: which field holds the input, or a template as in :class:`tasks.jsonl.JsonLines`.
      rationale: generate the rationale, too (the label does not wait for it to be right).
      chunk: rows answered before they are written.

    Raises:
      FileNotFoundError: no input file, or no student.
      ValueError: an unknown form, or an output file that does not belong to the input.
    """
    choices.check("form", form, FORMS)
    single, shared = form == "single", form == "shared_label"
    rows = list(_read(Path(input_path), input_field))
    found = _resume(Path(output_path), len(rows))
    device_mesh = mesh.build()
    with jax.set_mesh(device_mesh), nn.logical_axis_rules(list(rules)):
        _, params = restore_student(model_dir, model, device_mesh, rules)
        answer = Decoder(model, device_mesh, decode)
        explain = None
        if rationale and not single:
            explain = Decoder(model, device_mesh, rationale_decode or dataclasses.replace(decode, max_decode_len=256))

        def decoded(decoder: Decoder, prefix: str, texts: Sequence[str]) -> list[Prediction]:
            before = "" if shared else prefix
            ids = [preprocessors.encode(vocabulary, before + text, dataset.separator) for text in texts]
            prompt = preprocessors.prompt(vocabulary, prefix) if shared else ()
            return decoder(params, [np.array(i, np.int32) for i in ids], prompt)

        failed = 0
        with open(output_path, "a", encoding="utf-8") as file:
            for start in range(found, len(rows), chunk):
                part = rows[start : start + chunk]
                texts = [text for _, text, error in part if error is None]
                answers = iter(decoded(answer, "" if single else label_prefix, texts))
                reasons = iter(decoded(explain, rationale_prefix, texts) if explain else [])
                for number, (row, _, error) in enumerate(part, start + 1):
                    out: dict[str, Any] = {"line": number}
                    if "id" in row:
                        out["id"] = row["id"]
                    if error is not None:
                        out["error"] = error
                        failed += 1
                    else:
                        prediction = next(answers)
                        text = vocabulary.decode([int(t) for t in prediction.tokens])
                        out["label"] = preprocessors.answer_of(text) if single else text
                        out["score"] = round(prediction.log_prob, 6)
                        if single and rationale:
                            out["rationale"] = text
                        if explain:
                            out["rationale"] = vocabulary.decode([int(t) for t in next(reasons).tokens])
                    file.write(json.dumps(out, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                logging.info("answered %d of %d lines", start + len(part), len(rows))
    return InferReport(len(rows) - found - failed, found, failed)


def _read(path: Path, field: str) -> Iterator[tuple[dict[str, Any], str, str | None]]:
    """Rows with their input text, or with what is wrong with them."""
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                yield {}, "", "an empty line; expected a JSON object"
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError) as problem:
                yield {}, "", f"not a line of JSON: {problem}"
                continue
            if not isinstance(row, dict):
                yield {}, "", f"expected a JSON object; got {type(row).__name__}"
                continue
            try:
                yield row, jsonl.text_of(row, field), None
            except RowError as problem:
                yield row, "", str(problem)


def _resume(path: Path, rows: int) -> int:
    """Cuts an unfinished last line off ``path`` and returns how many complete ones it has."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return 0
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    lines = complete.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            matches = json.loads(line).get("line") == number
        except (ValueError, AttributeError):
            matches = False
        if not matches:
            raise ValueError(
                f"{path}:{number} is not a line this command wrote; move the file away or name another output"
            )
    if len(lines) > rows:
        raise ValueError(f"{path} has {len(lines)} answers for {rows} inputs; it belongs to another input")
    if len(complete) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(complete))
    return len(lines)
