"""Flags that have an effect only together with others, or only without them: a flag is never ignored in silence."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple


class _Rule(NamedTuple):
    """Flags that need one of ``others``, or exclude all of them.

    Attributes:
      flags: their names.
      others: flags, or ``flag=value``.
      needs: whether one of the others is needed; False: none may be given.
      remedy: the end of the message.
    """

    flags: Sequence[str]
    others: Sequence[str]
    needs: bool
    remedy: str = ""


_OF_RUNS = (
    *("dry_run", "run", "index", "workers", "executor=ray", "retry_failed", "retries", "report_only", "topology"),
    *("drop_more", "price_per_chip_hour", "multiprocess"),
)
_PROCESSES = _Rule(
    ("num_processes", "process_id"),
    ("coordinator_address", "multiprocess"),
    True,
    "outside of a cluster that is recognised, give --coordinator_address, --num_processes and --process_id",
)
_IN_THIS_PROCESS = "--run and --index train in this process, also beside workers of another command; leave out one flag"
RULES: dict[str, tuple[_Rule, ...]] = {
    "train": (_PROCESSES,),
    "eval": (_PROCESSES,),
    "sweep": (
        _PROCESSES,
        _Rule(("topology", "price_per_chip_hour"), ("dry_run",), True, "it estimates what is not trained yet"),
        _Rule(("ray_address", "cpus_per_run", "gpus_per_run"), ("executor=ray",), True),
        _Rule(("index",), ("run",), False, "each names the runs to train"),
        _Rule(("workers",), ("run", "index"), False, _IN_THIS_PROCESS),
        _Rule(("executor=ray",), ("run", "index"), False, _IN_THIS_PROCESS),
        _Rule(
            ("report_only",),
            ("dry_run", "run", "index", "workers", "executor=ray", "retry_failed", "retries", "drop_more"),
            False,
            "--report_only trains and changes nothing",
        ),
        _Rule(("status", "list", "print"), _OF_RUNS, False, "it shows what there is, and trains nothing"),
        _Rule(
            ("multiprocess", "coordinator_address"),
            ("run", "index"),
            True,
            "several processes train one run together; to train several runs at once, start the command on each machine "
            "without it",
        ),
    ),
    "data": (
        _Rule(("answer",), ("file",), True, "with --gin_file, give --gin.ANSWER"),
        _Rule(("set",), ("data_dir",), True, "it chooses among the paper's data sets"),
        _Rule(("teacher",), ("data_dir",), True, "it is for the paper's data sets"),
        _Rule(("set", "teacher"), ("gin_file",), False, "give --gin_file a file of gin/tasks of the data set"),
    ),
    "precompile": (
        _Rule(("search_batch_sizes", "search_remat_policies", "search_results", "max_compiles"), ("search",), True),
        _Rule(
            (
                "steps=decode",
                "price_per_chip_hour",
                "examples_per_step",
                "examples_per_epoch",
                "measure_data",
                "hlo_dir",
            ),
            ("search",),
            False,
            "a search only ranks training steps; give the configuration that it found without --search",
        ),
    ),
    "export": (_Rule(("quantization",), ("format=ct2",), True),),
}
"""Command → the rules of its flags."""


def check(options: argparse.Namespace, defaults: argparse.ArgumentParser) -> None:
    """Raises ValueError if a flag was given that would have no effect.

    Args:
      options: the flags of a command, ``options.command``.
      defaults: the command's parser, for the values of flags that were not given.
    """
    for rule in RULES.get(options.command, ()):
        for flag in rule.flags:
            if not _given(flag, options, defaults):
                continue
            others = [other for other in rule.others if _given(other, options, defaults)]
            end = f"; {rule.remedy}" if rule.remedy else ""
            if rule.needs and not others:
                raise ValueError(f"{_shown(flag)} has an effect only with {' or '.join(map(_shown, rule.others))}{end}")
            if others and not rule.needs:
                raise ValueError(f"{_shown(flag)} and {_shown(others[0])} exclude each other{end}")


def _shown(flag: str) -> str:
    return flag if flag == "status" else f"--{flag}"


def _given(flag: str, options: argparse.Namespace, defaults: argparse.ArgumentParser) -> bool:
    """Whether a flag has a value other than its default, or, of ``flag=value``, this value."""
    name, equals, value = flag.partition("=")
    if name == "status":
        return options.sweep[:1] == ["status"]
    name = "print_name" if name == "print" else name
    found = getattr(options, name, defaults.get_default(name))
    return found == value if equals else found not in (defaults.get_default(name), [])
