"""SIGKILL to one of several training processes, at random moments, again and again, until the run is complete.

    python -m benchmarks.reliability.kills --processes=2,4 --kills=20

For every number of processes, the kills are spread over paired, mixed and unpacked data. Half of the runs restart with
the same number of processes, and must end with the state of a run that was never killed, bit by bit. The other half
restart with other numbers of processes for the same devices (relative tolerance 1e-5, since sums over processes are taken
in another order). Every run crosses epochs. With ``--minutes``, no kill is begun after that time; a run that was killed is
completed and compared all the same, and the comparison of two runs that were not killed is left out.
"""

import argparse
import itertools
import math
import pathlib
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from benchmarks.reliability import states
from benchmarks.reliability.nursery import Child, Nursery
from benchmarks.reliability.rows import Row, finish, markdown
from benchmarks.reliability.small_run import SmallRun, environment

FORMS = {
    "paired, packed": {"FORM": "paired"},
    "mixed, packed": {"FORM": "mixed", "RATIONALE_RATE": 0.5},
    "paired, unpacked": {"FORM": "paired", "PACK": False},
}
RTOL = 1e-5
_RUN_S = 900.0  # for a run that is not killed, however loaded the machine
_SURVIVORS_S = 60.0  # for the others to end once one was killed


class Trainings:
    """Starts runs of ``devices`` devices in any number of processes."""

    def __init__(self, nursery: Nursery, rows: SmallRun, logs: pathlib.Path, devices: int, steps: int):
        self._nursery, self._rows, self._logs, self.devices, self._steps = nursery, rows, logs, devices, steps
        self._number = itertools.count()

    def start(self, model_dir: pathlib.Path, processes: int, form: dict[str, object]) -> list[Child]:
        """The processes of one attempt."""
        number = next(self._number)
        changes = {"train.train.validation": None, "partitioning.MeshConfig.fsdp": 2, "TRAIN_STEPS": self._steps}
        arguments = self._rows.arguments(model_dir, **changes, **form)
        flags = f"--xla_force_host_platform_device_count={self.devices // processes}"
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{server.getsockname()[1]}"
        started = []
        for index in range(processes):
            together = [f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={index}"]
            together.append("--heartbeat_timeout_seconds=30")
            argv = ["train", *arguments, *(together if processes > 1 else [])]
            log = self._logs / f"{model_dir.name}_{number}_{index}.txt"
            started.append(self._nursery.start(argv, log, XLA_FLAGS=flags))
        return started

    def complete(self, model_dir: pathlib.Path, processes: int, form: dict[str, object]) -> float:
        """Runs an attempt to its end; returns its seconds. Raises RuntimeError if it does not end well."""
        started = time.monotonic()
        children = self.start(model_dir, processes, form)
        codes = [child.wait(_RUN_S) for child in children]
        if codes != [0] * processes:
            output = "\n".join(child.output[-1500:] for child in children)
            raise RuntimeError(f"{model_dir.name}: exit codes {codes} of a run that was not killed:\n{output}")
        return time.monotonic() - started


def _kill_one(children: Sequence[Child], wait: float, lot: random.Random) -> bool:
    """Kills one after ``wait`` seconds, and waits for the others. Returns whether it was still running."""
    until = time.monotonic() + wait
    while time.monotonic() < until:
        if all(child.wait(0.02) is not None for child in children):
            return False
    victim = lot.choice(children)
    running = victim.wait(0.001) is None
    victim.kill()
    until = time.monotonic() + _SURVIVORS_S
    for child in children:
        if child.wait(max(until - time.monotonic(), 0.1)) is None:
            child.kill()
            child.wait(10)
    return running


def _plan(kills: int, forms: Sequence[str]) -> Iterator[tuple[str, bool, int]]:
    """Form, whether the number of processes stays, and the kills of each run."""
    runs = [(form, same) for form in forms for same in (False, True)]
    for number, (form, same) in enumerate(runs):
        share = kills // len(runs) + (number < kills % len(runs))
        if share:
            yield form, same, share


def run(
    processes: Sequence[int] = (2, 4), kills: int = 20, seed: int = 0, steps: int = 60,
    cache: pathlib.Path | None = None, forms: Sequence[str] = tuple(FORMS), others: Sequence[int] = (1, 2, 4),
    minutes: float = math.inf,
) -> list[Row]:  # fmt: skip
    """One row for each number of processes.

    Args:
      processes: the numbers of processes.
      kills: for each number.
      seed: of the moments.
      steps: updates of a run.
      cache: a folder of compiled programs of earlier runs.
      forms: the data, of ``FORMS``.
      others: the numbers of processes to restart with where the number changes; those that are smaller are taken.
      minutes: of kills, for each number of processes.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = pathlib.Path(temporary)
        small = SmallRun(folder / "rows").write()
        with Nursery(environment(cache or folder / "compiled")) as nursery:
            for count in processes:
                trainings = Trainings(nursery, small, folder / "logs", count, steps)
                rows.append(
                    _row(
                        trainings, folder / f"{count}", kills, random.Random(f"{seed} {count}"), forms, others, minutes
                    )
                )
                print(markdown(rows[-1:]), *rows[-1].faults, sep="\n", flush=True)
    return rows


def _row(
    trainings: Trainings, folder: pathlib.Path, kills: int, lot: random.Random, forms: Sequence[str],
    others: Sequence[int], minutes: float,
) -> Row:  # fmt: skip
    count, started = trainings.devices, time.monotonic()
    row = Row(
        f"training in {count} processes ends as if it was never killed",
        "SIGKILL to one process at a random moment; restart with the same number (bit-equal) or another (rtol 1e-5)",
    )
    references: dict[str, tuple[pathlib.Path, float]] = {}
    kinds: list[str] = []
    plan = list(_plan(kills, forms))
    for form, same, share in plan:
        if form not in references:
            reference = folder / f"reference_{len(references)}"
            duration = trainings.complete(reference, count, FORMS[form])
            if form == next(iter(FORMS)) and minutes == math.inf:
                again = folder / "again"
                duration = trainings.complete(again, count, FORMS[form])
                if found := states.difference(reference, again):
                    row.lose(f"{form}: two runs that were not killed differ: {found}")
            references[form] = reference, duration
        reference, duration = references[form]
        _report(f"{count} processes, {form}: an attempt that is not killed takes {duration:.0f} s")
        numbers = [count] if same else [count, *(n for n in others if n < count)]
        name = f"victim_{form.replace(', ', '_')}_{'same' if same else 'other'}"
        before, complete = row.tried, 0
        until = time.monotonic() + 60.0 * minutes / len(plan)
        for victim in _victims(trainings, folder / name, share, duration, numbers, form, row, lot, until):
            complete += 1
            if found := states.difference(reference, victim, 0.0 if same else RTOL):
                row.lose(f"{victim.name}: {found}")
                _report(row.faults[-1])
        kinds.append(f"{form}, {'the same' if same else 'another'} number: {row.tried - before} kills, {complete} runs")
        _report(f"{count} processes, {kinds[-1]}, {row.lost} lost, {time.monotonic() - started:.0f} s so far")
    row.how += "; ".join(["", *kinds])
    row.seconds = time.monotonic() - started
    return row


def _victims(
    trainings: Trainings, folder: pathlib.Path, kills: int, duration: float, numbers: Sequence[int], form: str,
    row: Row, lot: random.Random, until: float = math.inf,
) -> Iterator[pathlib.Path]:  # fmt: skip
    """Kills attempts until ``kills`` processes died while they ran; yields the runs, which are complete then.

    The first attempt of a run has ``numbers[0]`` processes, the next ones have the other numbers in turn.
    """
    done = 0
    for number in itertools.count():
        victim, turns = folder.with_name(f"{folder.name}_{number}"), itertools.cycle(numbers)
        while done < kills and time.monotonic() < until and not (victim / "result.json").exists():
            begun, fresh = time.monotonic(), not victim.exists()
            children = trainings.start(victim, next(turns), FORMS[form])
            killed = _kill_one(children, lot.uniform(0.1, 0.9) * duration, lot)
            done, row.tried = done + killed, row.tried + killed
            if fresh and not killed:  # the machine is faster now
                duration = min(duration, time.monotonic() - begun)
            _report(
                f"{victim.name}: {len(children)} processes, {'killed' if killed else 'complete'}, {done} of {kills} kills"
            )
        if not victim.exists():
            return
        if not (victim / "result.json").exists():
            try:
                trainings.complete(victim, next(turns), FORMS[form])
            except RuntimeError as error:
                row.lose(str(error))
                return
        yield victim
        if done == kills or time.monotonic() >= until:
            return


def _report(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="2,4", help="numbers of processes")
    parser.add_argument("--kills", type=int, default=20, help="kills for each number")
    parser.add_argument("--steps", type=int, default=60, help="updates of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", default=";".join(FORMS), help="the data, separated by semicolons")
    parser.add_argument(
        "--others", default="1,2,4", help="numbers of processes to restart with where the number changes"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="of kills, for each number")
    parser.add_argument("--cache", type=pathlib.Path, help="a folder of compiled programs, to share between calls")
    options = parser.parse_args()
    numbers = [int(number) for number in options.processes.split(",")]
    others = [int(number) for number in options.others.split(",")]
    forms = options.forms.split(";")
    finish(run(numbers, options.kills, options.seed, options.steps, options.cache, forms, others, options.minutes))


if __name__ == "__main__":
    main()
