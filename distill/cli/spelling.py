"""A parser whose errors are one line and name the nearest command, flag or macro."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import distill
from distill import exit_codes
from distill.api.gin_files import close
from distill.validation import did_you_mean, quoted, suggested

_CHOOSE = (
    "--gin.evaluate.DecodeConfig.answers=choose answers with one of each row's choices (FIELDS names their field, as "
    "{'choices': 'FIELD'}), or of those of --gin.evaluate.DecodeConfig.choices='[\"yes\", \"no\"]'"
)
_FIELD = '--gin.FIELDS=\'{"input": "FIELD"}\' names the fields of the rows, also that of the label'
_OF_INFER = {
    ("eval", "--choices"): _CHOOSE,
    ("train", "--choices"): _CHOOSE,
    ("eval", "--rationale"): "--gin.EVAL_FORM=rationale scores rationales, which need a larger --gin.MAX_DECODE_LEN",
    ("eval", "--input"): '--gin.FILES=\'{"test": "rows.jsonl"}\' names the rows, and --split=test scores them',
    ("eval", "--input_field"): _FIELD,
}
"""A command, and a flag that only ``infer`` has → the settings that do the same."""

_OTHER_WORDS = {
    "extract": "teacher collect annotate rationales",
    "eval": "test evaluate evaluation score validate",
    "infer": "predict serve serving answer inference decode generate",
    "train": "fit finetune fine-tune distill distil",
    "cache": "tokenize tokenise preprocess",
    "vocabulary": "vocab tokenizer tokeniser",
    "data": "dataset datasets",
    "precompile": "compile",
    "example": "init new",
}
_MEANT = {word: command for command, words in _OTHER_WORDS.items() for word in words.split()}
"""What a command is called elsewhere → the command."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, and name the nearest command, flag or macro."""

    def __init__(self, *arguments: Any, **named: Any):
        # A shortened flag may become ambiguous with the next version.
        super().__init__(*arguments, **{"allow_abbrev": False, **named})

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):
            known = [option for action in self._actions for option in action.option_strings]
            first = self._given[0].partition("=")[0] if self._given else ""
            if self._commands() and first.startswith("-") and first not in known:  # the command is missing too
                message = f"there is no flag {first}{did_you_mean(first, known)}"
            else:
                message += self._misspelt()
        if ";" not in message:
            message += self._help()
        self.exit(exit_codes.MISTAKE, f"{self.prog}: {message}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own drops what cannot be written, and ends with 0.
        if message:
            stream = file or sys.stderr
            stream.write(message)
            stream.flush()

    def _help(self) -> str:
        return f"; {self.prog} --help lists the {'commands' if self._commands() else 'flags'}"

    def _commands(self) -> Mapping[str, argparse.ArgumentParser]:
        return next((action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)), {})

    def _misspelt(self) -> str:
        """The given flags that may be those that are missing."""
        known = {option for action in self._actions for option in action.option_strings}
        missing = [option for action in self._actions if action.required for option in action.option_strings]
        given = [word.partition("=")[0] for word in self._given if word.startswith("--")]
        found = [(word, names[0]) for word in given if word not in known and (names := close(word, missing))]
        return "".join(f"; {word} is no flag, did you mean {name!r}?" for word, name in found)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            meant = _MEANT.get(str(value).lower())
            alike = [meant] if meant in action.choices else close(str(value), action.choices)
            self.error(f"there is no command {value!r}{suggested(alike)}")
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), known) or suggested(_beginning_alike(str(value), known))
            name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
            self.error(f"{name} must be one of {', '.join(known)}; got {quoted(str(value), 200)}{near or self._help()}")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def,override]
        self._given = [str(word) for word in args or ()]
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def,override]
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = next((self._commands()[word] for word in args or () if word in self._commands()), self)
            command.error(_unknown(unknown, command))
        return options


def _beginning_alike(name: str, known: Sequence[str]) -> list[str]:
    """The one known name whose letters, in order, are those that parts of ``name`` begin with: ``hf`` for hugging_face."""
    found = [one for one in known if one and re.match(".*".join(map(re.escape, one)), name.lower())]
    return found if len(found) == 1 else []


def _unknown(words: Sequence[str], command: argparse.ArgumentParser) -> str:
    """The error for words that match no flag: a macro without ``--gin.``, a binding without a value, or a misspelt flag."""
    takes_bindings = any(action.dest == "gin_bindings" for action in command._actions)
    word = re.sub(r"^--gin_bindings=(\S+) = ", r"--gin.\1=", words[0])
    after = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
    binding = re.fullmatch(r"--gin\.([\w./]+)(=.*)?", word, re.DOTALL)
    if binding and takes_bindings and not binding[2]:
        return f"{word} has no value; write --gin.{binding[1]}={after or 'VALUE'}"
    if binding and not takes_bindings:
        return f"{word} does not apply: {command.prog} reads no gin files"
    flag, equals, value = word.partition("=")
    known = [
        option for action in command._actions if action.help != argparse.SUPPRESS for option in action.option_strings
    ]
    if flag not in known and (way := _OF_INFER.get((command.prog.split()[-1], flag))):
        return f"there is no flag {flag}; {way}"
    if near := [option for option in close(flag, known) if option != "--help"]:
        return f"there is no flag {flag}{suggested(near)}"
    macro = flag.lstrip("-").upper().replace("-", "_")
    if takes_bindings and flag.startswith("-"):
        macros = _macros()
        names = [macro] if macro in macros else close(macro, macros)
        if names:
            given = value if equals else after or "VALUE"
            return f"there is no flag {flag}; write --gin.{names[0]}={given}"
    return f"{'there is no flag' if word.startswith('-') else 'unexpected argument'} {word}"


def _macros() -> set[str]:
    """The macros of the shipped gin files, without those for T5X's own programs."""
    base = Path(distill.__file__).parent / "gin"
    texts = [file.read_text("utf-8") for file in base.rglob("*.gin") if file.relative_to(base).parts[0] != "t5x"]
    pairs = re.findall(r"^([A-Z][A-Z_]+) = |%([A-Z][A-Z_]+)", "\n".join(texts), re.MULTILINE)
    return {name for pair in pairs for name in pair if name}
