"""Pieces of shell script: preparation, a child that is waited for through signals, and the restart loop."""

import shlex
from collections.abc import Sequence

from distill.tools.launch import quoting
from distill.tools.launch.job import RESTART_CODES, Job

RESTARTABLE = " | ".join(map(str, RESTART_CODES))  # a pattern of `case`
FOLDER = "launch"  # of logs and process numbers, in the working directory


def preparation(job: Job, change_directory: bool = True) -> list[str]:
    """Lines that enter the directory, set the environment and run the set-up; the first that fails ends the script."""
    lines = [f"cd {shlex.quote(job.directory)}"] if job.directory and change_directory else []
    lines += [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    lines += job.setup
    return ["set -e", *lines, "set +e"] if lines else []


def forwarding(forward: str, signals: str = "TERM INT") -> list[str]:
    """Lines that count signals in ``signals`` and forward them with the command ``forward``."""
    return [
        "signals=0 child=",
        "forward() {",
        "  signals=$((signals + 1))",
        f"  {forward} 2>/dev/null",
        "}",
        f"trap forward {signals}",
    ]


def child(command: str, forward: str) -> list[str]:
    """Lines that run ``command`` and leave its exit code in ``status``, also if signals come in between.

    A shell's ``wait`` returns early when a signal arrives. It is repeated until no signal interrupts it. If the child
    was already waited for, the repetition returns 127, and the previous code counts.
    """
    return [
        f"{command} &",
        "child=$!",
        f'[ "$signals" -eq 0 ] || {forward}',
        "seen=-1",
        'while [ "$seen" -ne "$signals" ]; do',
        "  seen=$signals",
        '  wait "$child"',
        "  again=$?",
        '  if [ "$again" -ne 127 ] || [ "$seen" -eq 0 ]; then status=$again; fi',
        "done",
    ]


def restarting(job: Job, command: Sequence[str], label: str, delay: int) -> str:
    """A POSIX shell script that runs ``command`` again, after ``delay`` seconds, whenever it was stopped and may continue.

    Output goes to ``launch/LABEL.log`` and from there to the session, so that the run outlives a lost connection.
    SIGTERM to the script (its process is in ``launch/LABEL.pid``) stops the run permanently, with a checkpoint; SIGTERM
    to the run alone makes it start again. That file is locked while the script or the run lives, so that a second
    launch is refused, and a process number from before a crash is not mistaken for a run.
    """
    log, process = (shlex.quote(f"{FOLDER}/{label}.{kind}") for kind in ("log", "pid"))
    forward = 'kill -TERM "$child"'
    lines = [
        *preparation(job),
        f"mkdir -p {FOLDER} || exit 2",
        f"exec 9>> {process}",
        "if ! flock -n 9; then",
        f'  echo "{label} is running on $(hostname) already; its output is in {FOLDER}/{label}.log" >&2',
        "  exit 2",
        "fi",
        f"echo $$ > {process}",
        f": >> {log}",
        f"shown=$(wc -c < {log})",
        f'tail -c "+$((shown + 1))" -f -s 0.2 --pid=$$ {log} 9>&- &',
        "watcher=$!",
        *forwarding(forward),
        "restarts=0",
        "while :; do",
        *(f"  {line}" for line in child(f"{quoting.words(command)} >> {log} 2>&1 < /dev/null", forward)),
        f'  case "$status" in {RESTARTABLE}) ;; *) break ;; esac',
        f'  if [ "$signals" -gt 0 ] || [ "$restarts" -ge {job.max_restarts} ]; then break; fi',
        "  restarts=$((restarts + 1))",
        f'  echo "launch: exit code $status; restart $restarts of {job.max_restarts} in {delay} s" >> {log}',
        f"  sleep {delay}",
        '  if [ "$signals" -gt 0 ]; then break; fi',
        "done",
        "sleep 0.5",  # for the last lines to be shown
        'kill "$watcher" 2>/dev/null',
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


def stopping(job: Job, label: str) -> str:
    """A POSIX shell script that stops what :func:`restarting` runs: it saves a checkpoint and is not started again."""
    process = shlex.quote(f"{FOLDER}/{label}.pid")
    lines = [
        *([f"cd {shlex.quote(job.directory)} || exit 2"] if job.directory else []),
        f"if [ ! -e {process} ] || flock -n {process} true; then",
        f'  echo "{label} is not running on $(hostname)" >&2',
        "  exit 2",
        "fi",
        f'kill -TERM "$(cat {process})"',
    ]
    return "\n".join(lines) + "\n"
