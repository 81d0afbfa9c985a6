"""The README of an exported student: its model, its training, its scores and how to use it."""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.inference.answering import RATIONALE_TOKENS
from distill.inference.own_files import CONFIG, RESULT
from distill.model.lora import Lora

_MACRO = re.compile(r"^(?P<name>[A-Z][A-Z0-9_]*) = (?P<value>.+)$")
_PAPER = "Hsieh et al. 2023, *Distilling Step-by-Step!* (https://arxiv.org/abs/2305.02301)"
_METHODS = {
    "paired": f"distilling step-by-step, both sequences of an example in the same batch; {_PAPER}",
    "mixed": f"distilling step-by-step, the two tasks drawn independently; {_PAPER}",
    "shared": f"distilling step-by-step, one encoder pass over an example's input for both tasks; {_PAPER}",
    "single": "one target that reasons first and then answers",
    "label": "fine-tuning on labels alone",
}
_TERMS = (
    "models trained from Google's weights are under the Gemma Terms of Use (https://ai.google.dev/gemma/terms). Pass them "
    "on with the model."
)
_TWO_TASKS = ("paired", "mixed", "shared", "single")


def read_macros(text: str) -> dict[str, str]:
    """Returns the macros of a resolved gin file, with their values as text. Nothing is evaluated.

    >>> read_macros("ALPHA = None\\nMODEL = @network.T5Config()\\nsvamp.dataset.teacher = %TEACHER")
    {'ALPHA': 'None', 'MODEL': '@network.T5Config()'}
    """
    matches = [_MACRO.match(line) for line in text.splitlines()]
    return {match["name"]: match["value"].strip() for match in matches if match}


def _plain(value: str | None) -> Any:
    """A macro's value if it is a literal, otherwise its text."""
    if value is None:
        return None
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def weights_told(macros: Mapping[str, str]) -> str:
    """Describes the task weights as configured (λ or α), with the equivalent other value."""
    alpha, lam = _plain(macros.get("ALPHA")), _plain(macros.get("LAMBDA"))
    if isinstance(alpha, int | float):
        ratio = f" (λ = {(1 - alpha) / alpha:.4g})" if alpha else ""
        return f"{alpha:g} · label + {1 - alpha:g} · rationale{ratio}"
    value = lam if isinstance(lam, int | float) else 1.0
    return f"label + {value:g} · rationale (λ = {value:g})"


def adapters_told(macros: Mapping[str, str]) -> str | None:
    """Describes the adapters that were trained and merged (LORA_RANK, LORA_ALPHA, LORA_TARGETS); None without any."""
    rank, alpha = _plain(macros.get("LORA_RANK")), _plain(macros.get("LORA_ALPHA"))
    if not isinstance(rank, int):
        return None
    targets = _patterns(macros.get("LORA_TARGETS")) or _patterns(repr(Lora.targets))
    alpha = alpha if isinstance(alpha, int | float) else Lora.alpha
    alone = "" if _patterns(macros.get("FROZEN")) else "; nothing else was trained"
    return f"LoRA of rank {rank} with α = {alpha:g}, merged into the kernels that match {targets}{alone}"


def _patterns(value: str | None) -> str | None:
    """The patterns of a macro as code; the configuration's name if the macro continues on other lines."""
    patterns = _plain(value)
    if patterns is None or patterns == ():
        return None
    if isinstance(patterns, tuple | list) and all(isinstance(one, str) for one in patterns):
        return ", ".join(f"`{one}`" for one in patterns)
    return f"the patterns in `{CONFIG}`"


def read_result(model_dir: Path) -> dict[str, Any]:
    """Reads ``result.json`` of a finished run; returns an empty dict if it is missing or damaged.

    Raises:
      OSError: the file is there, and the storage cannot read it now.
    """
    try:
        value = json.loads((model_dir / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def target_length(model_dir: Path) -> int:
    """The target tokens that a run was trained for (TASK_FEATURE_LENGTHS).

    :data:`distill.inference.answering.RATIONALE_TOKENS`, as for rationales here, if its configuration does not give them.

    Raises:
      OSError: the configuration is there, and the storage cannot read it now.
    """
    lengths = _plain(_macros_of(model_dir).get("TASK_FEATURE_LENGTHS"))
    length = lengths.get("targets") if isinstance(lengths, dict) else None
    return length if isinstance(length, int) and length > 0 else RATIONALE_TOKENS


def _macros_of(model_dir: Path) -> dict[str, str]:
    """The macros of a run's ``config.gin``; none if there is no such file."""
    try:
        return read_macros((model_dir / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _accuracy(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    best, test = result.get("best"), result.get("test")
    if isinstance(best, int | float):
        rows.append(("validation", f"{best:.4f} (step {result.get('best_step')})"))
    if isinstance(test, dict):
        for name, value in test.items():
            if name.endswith(("_low", "_high")) or not isinstance(value, int | float):
                continue
            low, high = test.get(f"{name}_low"), test.get(f"{name}_high")
            bounds = isinstance(low, int | float) and isinstance(high, int | float)
            rows.append(
                (f"test {name}", f"{value:.4f}" + (f" (95% interval {low:.4f} to {high:.4f})" if bounds else ""))
            )
    return rows


def write(
    path: Path,
    model_dir: Path,
    *,
    parameters: int,
    step: int | None,
    usage: str,
    rationale_usage: str | None = None,
    prefixes: Mapping[str, str],
    library: str,
    dataset: str | None = None,
    prompted: bool = False,
    family: str = "T5",
) -> None:
    """Writes the card.

    Args:
      path: the README to write.
      model_dir: model directory of the run, whose configuration and result are described.
      parameters: number of the student's parameters.
      step: training step of the parameters.
      usage: Python code that uses the student.
      rationale_usage: Python code that decodes a rationale, with its own length; None: the student has no such task.
      prefixes: prefix of the input, or of the target if ``prompted``, by task.
      prompted: whether the prefixes start the targets instead of the inputs.
      library: Hugging Face's name of the library that loads the export.
      dataset: name of the data set, if the configuration does not give it.
      family: the network's, see :func:`distill.model.configs.family`; a T5Gemma's card names the terms of its weights.

    Raises:
      OSError: the card cannot be written; or configuration or result are there, and the storage cannot read them now.
    """
    macros = _macros_of(model_dir)
    form = _plain(macros.get("FORM"))
    task = _plain(macros.get("MIXTURE_OR_TASK_NAME"))
    data = dataset or (str(_plain(macros["DATASET"])) if "DATASET" in macros else str(task or "not recorded"))
    facts = [
        ("method", _METHODS.get(str(form), str(form) if form else "not recorded")),
        ("data", data),
        ("labels", {"gold": "gold", "teacher": "the teacher's"}.get(str(_plain(macros.get("LABEL_SOURCE"))))),
        ("share of the training rows", _plain(macros.get("SUBSAMPLE"))),
        ("loss", weights_told(macros) if form in _TWO_TASKS else None),
        ("normalizer", _plain(macros.get("NORMALIZER")) if form in _TWO_TASKS else None),
        ("started from", _plain(macros.get("INITIAL_CHECKPOINT_PATH")) or ("random parameters" if macros else None)),
        ("adapters", adapters_told(macros)),
        ("frozen", _patterns(macros.get("FROZEN"))),
        ("parameters", f"{parameters:,}"),
        ("step", step),
    ]
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: text2text-generation",
        f"tags: [distilling-step-by-step, {family.lower().replace(' ', '')}]",
    ]
    started = _plain(macros.get("INITIAL_CHECKPOINT_PATH"))
    if family != "T5" and started:
        lines.append("license: gemma")
    lines += ["---", "", f"# A student distilled step by step: {data}", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts if value is not None]
    lines += [f"| {name} | {_cell(value)} |" for name, value in _accuracy(read_result(model_dir))]
    lines += [
        "",
        "## Usage",
        "",
        f"The prefix is part of the {'target' if prompted else 'input'}; without it the answers are another model's:",
        "",
    ]
    lines += [f"- {name}: `{json.dumps(prefix, ensure_ascii=False)}`" for name, prefix in prefixes.items()]
    lines += ["", "```python", usage.strip(), "```", ""]
    if rationale_usage is not None:
        lines += ["A rationale is longer than a label, whose length is the default. So it needs its own length:", ""]
        lines += ["```python", rationale_usage.strip(), "```", ""]
    if family != "T5" and started:
        lines += ["## Licence", "", f"The student was trained from {started}, a {family}: {_TERMS}", ""]
    if macros:
        lines += ["## Training it again", "", f"`{CONFIG}` in this folder is the run's whole configuration:", ""]
        lines += ["```sh", f"distill train --gin_file={CONFIG} --gin.MODEL_DIR=\"'a new directory'\"", "```", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
