"""Decoding a SeqIO task's split and scoring it with the task's own metrics."""

import dataclasses
import itertools
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np
import seqio
from etils import epath
from flax import linen as nn

from distill import atomic_files, outputs, validation
from distill.checkpoints.manager import restore_student
from distill.counting import counted, form, share
from distill.inference import answering, choosing, model_directory
from distill.inference import student as student_file
from distill.inference.decoder import DecodeConfig, Decoder, Prediction, bucket_lengths
from distill.inference.evaluation import Evaluation
from distill.model.configs import NetworkConfig
from distill.sharding import partitioning
from distill.tasks import feeding, metrics, reading, registration, task_ids
from distill.tasks.records import is_blank
from distill.terminal import Terminal
from distill.validation import quoted

__all__ = ["DecodeConfig", "Decoder", "Evaluation", "Evaluator", "Prediction", "bucket_lengths", "evaluate"]

_METRICS = 2**20  # bytes of a file of metrics that are searched for its settings
_REMEDY = "delete it"


class Evaluator:
    """A SeqIO task's split, read once, to be scored again and again.

    Args:
      task_name: a registered task with metrics.
      split: SeqIO split.
      decoder: a :class:`Decoder`, or another object that computes predictions from parameters, inputs and a prompt. If its
        configuration says so, answers are chosen among each row's choices instead.
      max_examples: number of examples to score, from the first; None scores all.

    Attributes:
      unscored: how many rows of the split have no target, in words; None if all have, or not all rows are read.

    Raises:
      ValueError: the task or split cannot be evaluated; or answers are to be chosen, and the task's targets hold a
        rationale, too, or a row has no choices, choices that :func:`distill.inference.choosing.encoded` refuses, or a
        target that is none of them.
    """

    unscored: str | None = None

    def __init__(self, task_name: str, split: str, decoder: Callable, *, max_examples: int | None = None):
        self.task = registration.get(task_name)
        self.split, self._decode = split, decoder
        self._reasons_first = task_name.endswith("_single")
        if not isinstance(self.task, seqio.Task) or not self.task.metric_fns:
            raise ValueError(f"{task_name!r} cannot be evaluated: it is no SeqIO task with metrics")
        if registration.shares_input(task_name):
            alone = f"'{task_name}_label' or '{task_name}_rationale'"
            raise ValueError(f"{task_name!r} has two targets per input and cannot be evaluated; take {alone}")
        check_split(self.task, split)
        read = reading.examples(self.task, split, limit=max_examples)
        self._examples = [example for example in read if len(example["inputs"])]
        self.unscored = self._without_target() if max_examples is None else None
        if not self._examples:
            why = f": {self.unscored}" if self.unscored else ""
            raise ValueError(f"task {task_name!r} has no example in split {split!r}{why}")
        self._vocabulary = self.task.output_features["targets"].vocabulary
        self._prompt = registration.prompt(task_name)
        self._targets = [self._postprocess(_text(e["targets_pretokenized"]), e, True) for e in self._examples]
        self._chooser: choosing.Chooser | None = None
        if isinstance(decoder, Decoder) and decoder.config.answers == "choose":
            if self._reasons_first:
                raise ValueError(f"task {task_name!r}: {answering.NOT_CHOSEN}")
            self._chooser = choosing.Chooser(decoder)
            self._choices = [self._choices_of(number, decoder.config.choices) for number in range(len(self))]
            self._choice_ids = choosing.all_encoded(self._vocabulary, self._choices, self._prompt, self._refusal)

    def __len__(self) -> int:
        return len(self._examples)

    def _without_target(self) -> str | None:
        """Counts the rows of the split without a target of the task; None if all have one, or the source has no records."""
        if not isinstance(self.task.source, feeding.RecordDataSource):
            return None
        rows = self.task.source.num_input_examples(self.split)
        if (without := rows - len(self._examples)) <= 0:
            return None
        target = "rationale" if self.task.name.endswith("_rationale") else "label"
        return f"{share(without, rows, 'row', f'has no {target} and is', f'have no {target} and are')} not scored"

    def check_metric(self, name: str) -> None:
        """Raises ValueError, which lists the task's metrics, if ``name`` is not one of them; decodes nothing."""
        names = self._metrics()
        if name not in names:
            hint = validation.did_you_mean(name, names)
            raise ValueError(f"task {self.task.name!r} has no metric {name!r}; it has {names}{hint}")

    def _metrics(self) -> list[str]:
        """The names of the task's metrics."""
        two = list(zip(self._targets, self._examples))[:2]
        answers = [self._postprocess(_text(example["targets_pretokenized"]), example, False) for _, example in two]
        return sorted(metrics.computed(self.task.metric_fns, [target for target, _ in two], answers))

    def check_lengths(self, max_decode_len: int) -> str | None:
        """Compares the lengths of the split's targets, EOS included, with the maximum decoded length.

        Of a target that gives its label first, only the tokens up to the label's last one count.

        Returns:
          None if all of them fit, or if answers are chosen; else a warning with the number of those that do not.

        Raises:
          ValueError: none fits, so no prediction can be right.
        """
        if self._chooser is not None:
            return None
        lengths = np.array([_tokens_of_answer(example) for example in self._examples]) - len(self._prompt)
        too_long = int((lengths > max_decode_len).sum())
        if not too_long:
            return None
        remedy = f"--gin.MAX_DECODE_LEN={int(lengths.max())} fits all"
        if too_long == len(lengths):
            raise ValueError(
                f"all {len(lengths)} targets of task {self.task.name!r}, split {self.split!r}, are longer than "
                f"MAX_DECODE_LEN = {max_decode_len} (the shortest has {int(lengths.min())} tokens), so none can be "
                f"predicted; {remedy}"
            )
        return (
            f"{too_long} of {counted(len(lengths), 'target')} ({too_long / len(lengths):.1%}) of task {self.task.name!r}, "
            f"split {self.split!r}, {form(too_long, 'is', 'are')} longer than MAX_DECODE_LEN = {max_decode_len} and cannot "
            f"be predicted; {remedy}"
        )

    def fit(self, max_input_len: int, trained_input_len: int) -> answering.Fit:
        """How the split's inputs fit the decoding and the training. Arguments as of ``DecodeConfig`` and the student."""
        return answering.Fit.of_lengths(
            [len(example["inputs"]) for example in self._examples], max_input_len, trained_input_len
        )

    def _postprocess(self, text: str, example: Mapping[str, Any], is_target: bool) -> Any:
        if self.task.postprocess_fn is None:
            return text
        return self.task.postprocess_fn(text, example=example, is_target=is_target)

    def _choices_of(self, number: int, given: Sequence[object]) -> Sequence[str]:
        """The texts of an example's choices. Raises ValueError if there are none, or its target is not one of them."""
        example = self._examples[number]
        choices = [_text(choice) for choice in given or example.get("choices", ())]
        of = self._row(number)
        if not choices:
            raise ValueError(
                f"{of} has no choices; give those of all rows in DecodeConfig.choices, or the field of a row's choices in "
                "FIELDS['choices'], or generate the answers"
            )
        target = _text(example["targets_pretokenized"])
        if metrics.match_choice(target, choices) is None:
            raise ValueError(
                f"{of}: the target {quoted(target)} is none of the choices {list(choices)}; add it to the choices, "
                "or choose in the label task (EVAL_FORM=label of a student that was trained on it)"
            )
        return choices

    def _refusal(self, number: int, error: ValueError) -> str:
        """The message for choices among which the student cannot choose."""
        return f"{self._row(number)}: {error}; correct these choices, or generate the answers"

    def _row(self, number: int) -> str:
        """Names an example in errors about its choices, with its file and line where they are known."""
        example, source = self._examples[number], self.task.source
        row = f"row {self._id(number)!r}"
        if isinstance(source, feeding.RecordDataSource):
            own = [_text(choice) for choice in example.get("choices", ())]
            row = source.named(self.split, self._id(number), _text(example["inputs_pretokenized"]), own)
        return f"DecodeConfig.answers = 'choose': task {self.task.name!r}, split {self.split!r}, {row}"

    def _id(self, number: int) -> str:
        return _text(self._examples[number].get("id", b"")) or str(number)

    def __call__(self, params: Any) -> Evaluation:
        """Decodes and scores the split with ``params``."""
        inputs = [example["inputs"] for example in self._examples]
        if self._chooser is None:
            return self.score(self._decode(params, inputs, self._prompt))
        found = self._chooser(params, inputs, self._choice_ids, self._prompt)
        evaluation = self._scored(
            [own[one.number] for own, one in zip(self._choices, found)], [one.log_prob for one in found]
        )
        for row, own, one in zip(evaluation.rows, self._choices, found):
            row["choices"] = list(own)
            row["probabilities"] = [round(float(share), 6) for share in one.probabilities]
        return evaluation

    def score(self, predictions: Sequence[Prediction]) -> Evaluation:
        """Scores predictions made in the order of the split."""
        texts = [self._vocabulary.decode([int(t) for t in p.tokens]) for p in predictions]
        return self._scored(texts, [one.log_prob for one in predictions], [one.cut for one in predictions])

    def _scored(self, texts: Sequence[str], log_probs: Sequence[float], cuts: Sequence[bool] = ()) -> Evaluation:
        answers = [self._postprocess(t, e, False) for t, e in zip(texts, self._examples)]
        scores = metrics.computed(self.task.metric_fns, self._targets, answers)
        rows = [
            {
                "id": row["id"],
                "target": row["target"],
                "prediction": text,
                "correct": self._correct(number, answers[number]),
                "input": row["input"],
                "rationale": row["rationale"],
                "teacher": row["teacher"],
                "score": round(log_prob, 6),
            }
            for number, (row, text, log_prob) in enumerate(zip(self.texts(), texts, log_probs))
        ]
        incomplete = empty = 0
        for row, text, answer, cut in zip(rows, texts, answers, cuts):
            problem = answering.no_answer(text, answer, cut) if self._reasons_first else None
            row |= {} if problem is None else {"error": problem}
            incomplete += cut and problem is None
            empty += is_blank(text) and problem is None
        return Evaluation(scores, rows, cut=incomplete, empty=empty)

    def texts(self) -> list[dict[str, str | None]]:
        """``id``, ``input``, ``target``, ``rationale`` and ``teacher`` of every example; the last two may be None."""

        def text(example: Mapping[str, Any], name: str) -> str | None:
            return (_text(example[name]) or None) if name in example else None

        return [
            {
                "id": self._id(number),
                "input": _text(example["inputs_pretokenized"]),
                "target": _text(example["targets_pretokenized"]),
                "rationale": text(example, "rationale"),
                "teacher": text(example, "llm_label"),
            }
            for number, example in enumerate(self._examples)
        ]

    def _correct(self, number: int, answer: Any) -> bool | None:
        """Whether an answer counts in the task's ``accuracy``; None if the task has none of the project's accuracies."""
        kinds = [kind for kind, fn in metrics.ACCURACY.items() if fn in self.task.metric_fns]
        target = self._targets[number]
        if not kinds or not isinstance(target, metrics.Answer):
            return None
        return metrics.same_answer(kinds[0], target.text, answer, target.choices)


def check_split(task: seqio.Task, split: str) -> None:
    """Raises ValueError, which lists the task's splits, if ``split`` is not one of them."""
    if split not in task.splits:
        raise ValueError(
            f"task {task.name!r} has no split {split!r}; it has {', '.join(sorted(task.splits))} "
            "(a training run without a test split needs TEST_SPLIT=None)"
        )


def evaluate(
    model_dir: str,
    *,
    model: NetworkConfig,
    task_name: str,
    split: str = "test",
    decode: DecodeConfig = DecodeConfig(),
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    max_examples: int | None = None,
    trained_task_name: str | None = None,
    output_dir: str | None = None,
    terminal: Terminal | None = None,
    warnings_of: Callable[[str, str, int], Sequence[str]] | None = None,
) -> Evaluation:
    """Scores a trained student on a split, and writes ``predictions/<task>_<split>.jsonl`` and ``.metrics.json``.

    The latter also holds ``settings``: the task, the split and the number of examples, the student's step and dtype, and
    the settings of decoding that took effect.

    Answers that are chosen (``decode.answers``) are written to ``<task>_chosen_<split>``, and those of the first rows
    alone to names that end in ``_first_<max_examples>``.

    Args:
      model_dir: where the student was trained.
      model: the student.
      task_name: a registered task with metrics: ``<set>_label``, or ``<set>_rationale`` for its rationales (of a student
        that has encoded both tasks' input in one pass: ``<set>_shared_label``, ``<set>_shared_rationale``).
      split: SeqIO split.
      decode: how.
      mesh: the device mesh.
      rules: logical axis → mesh axis.
      max_examples: number of examples to score, from the first; None scores all.
      trained_task_name: the task of the training, if known; a task with another prefix or prompt is refused.
      output_dir: where the two files go; None: ``predictions`` in the model directory.
      terminal: prints what begins; None prints nothing.
      warnings_of: makes further warnings for the terminal, of the task, the split and the number of examples; they precede
        the line that names the files.

    Raises:
      FileNotFoundError, ValueError: no student, or one of another shape; or a task that does not fit its training.
      ValueError: another program's files are in the place of these two.
      OSError: predictions cannot be written.
    """
    if trained_task_name is not None:
        registration.check_prompts(trained_task_name, task_name)
    terminal = terminal or Terminal(active=False)
    folder = epath.Path(model_dir) / "predictions" if output_dir is None else epath.Path(output_dir)
    chosen = "_chosen" if decode.answers == "choose" else ""
    part = "" if max_examples is None else f"_first_{max_examples}"
    stem = folder / f"{task_name}{chosen}_{split}{part}"
    if jax.process_index() == 0:
        _check_writable(folder)
        outputs.check_own("the file of predictions", f"{stem}.jsonl", _is_predictions, "distill eval", remedy=_REMEDY)
        outputs.check_own("the file of metrics", f"{stem}.metrics.json", _is_metrics, "distill eval", remedy=_REMEDY)
    device_mesh = mesh.build()
    with jax.set_mesh(device_mesh), nn.logical_axis_rules(list(rules)):
        with terminal.stage(f"restoring the student of {model_dir}"):
            step, params = restore_student(model_dir, model, device_mesh, rules)
        with terminal.stage(f"reading {task_name}, split {split!r}"):
            evaluator = Evaluator(task_name, split, Decoder(model, device_mesh, decode), max_examples=max_examples)
        described = _described(model_dir)
        fit = evaluator.fit(decode.max_input_len, described.trained_input_len if described else 0)
        long, missing = evaluator.check_lengths(decode.max_decode_len), _not_computed(evaluator.task, described)
        unfinished = model_directory.unfinished(model_dir)
        for warning in (
            *decode.unused(),
            *filter(None, [unfinished, evaluator.unscored, long, missing]),
            *fit.remarks(answering.LIMIT),
        ):
            logging.warning("%s", warning)
        for warning in warnings_of(task_name, split, len(evaluator)) if warnings_of else ():
            terminal.warn(warning)
        verb = "choosing the answers of" if decode.answers == "choose" else "decoding"
        with terminal.stage(f"{verb} {counted(len(evaluator), 'example')}"):
            evaluation = evaluator(params)
        if problems := [row["error"] for row in evaluation.rows if "error" in row]:
            logging.warning(
                "%d of %s have no answer: %s", len(problems), counted(len(evaluator), "prediction"), problems[0]
            )
        for text in answering.remarks(evaluation.cut, evaluation.empty, answering.LONGER, "prediction"):
            logging.warning("%s", text)
    settings = {"task": task_name, "split": split, "examples": len(evaluator), "step": step, "dtype": model.dtype}
    evaluation = dataclasses.replace(evaluation, settings=settings | {"decode": decode.in_effect()})
    if jax.process_index() == 0:
        evaluation.write(f"{stem}.jsonl")
        found = {**evaluation.metrics, "settings": evaluation.settings}
        atomic_files.replace(f"{stem}.metrics.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        terminal.say(
            f"the student of step {step}; its predictions are in {stem}.jsonl, the metrics in {stem.name}.metrics.json"
        )
    return evaluation


def _described(model_dir: str) -> student_file.Student | None:
    """The description of the student, if its directory has one."""
    return student_file.read(model_dir) if (epath.Path(model_dir) / student_file.FILE).exists() else None


def _not_computed(task: seqio.Task, described: student_file.Student | None) -> str | None:
    """A warning if the training scored labels with functions that a task of labels lacks."""
    here = [metrics.name_of(fn) for fn in task.metric_fns]
    missing = [name for name in (described.metrics if described else ()) if name not in here]
    if not missing or not any(fn in task.metric_fns for fn in metrics.ACCURACY.values()):
        return None
    return (
        f"{', '.join(missing)} of the training {form(len(missing), 'is', 'are')} not computed; bind "
        "registration.register.label_metrics in a gin file (--gin_module), or use distill.evaluate(…, metrics=[…])"
    )


def _is_predictions(file: BinaryIO) -> bool:
    return {"target", "prediction"} <= {*outputs.first_object(file)}


def _is_metrics(file: BinaryIO) -> bool:
    return b'"settings"' in file.read(_METRICS)


def _check_writable(folder: epath.Path) -> None:
    """Raises OSError, with the remedy, before a long evaluation whose predictions could not be written."""
    made = list(itertools.takewhile(lambda one: not one.exists(), [folder, *folder.parents]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}"  # no other file's name
        probe.touch()
        probe.unlink()
        for one in made:  # an evaluation that fails leaves no folder
            if one.is_dir():
                one.rmdir()
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(
            error.errno, f"{why}: predictions cannot be written to {folder}; --output names another folder"
        ) from None


def _tokens_of_answer(example: Mapping[str, Any]) -> int:
    """The number of target tokens up to the last one of the label; all of them in a target without a label."""
    labels = np.flatnonzero(np.asarray(example.get("targets_task_ids", ())) == task_ids.LABEL)
    return int(labels[-1]) + 1 if len(labels) else len(example["targets"])


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
