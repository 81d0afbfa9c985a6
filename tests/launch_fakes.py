"""Programs that stand in for distill and for schedulers, and note what they were asked for."""

import os
import time

# Exits with the next code of the file `codes`; the code "wait" stands for training until SIGTERM, and then 75.
DISTILL = r"""#!/bin/sh
cd "$FAKES" || exit 99
run=$(($(cat runs 2>/dev/null || echo 0) + 1))
echo "$run" > runs
printf '%s\0' "$@" > "arguments.$run"
env -0 > "environment.$run"
echo "run $run"
code=$(sed -n "${run}p" codes)
[ "$code" = wait ] || exit "$code"
trap 'echo "checkpoint saved"; exit 75' TERM
echo $$ > training
while :; do sleep 0.02; done
"""

# As Slurm's: a SIGTERM to srun itself kills its tasks at once.
SRUN = r"""#!/bin/sh
printf '%s\n' "$@" > "$FAKES/srun"
while case "$1" in --*) true ;; *) false ;; esac do shift; done
"$@" &
task=$!
echo "$task" > "$FAKES/task"
trap 'echo "srun: forcing job termination"; kill -KILL "$task"; exit 137' TERM
wait "$task"
"""

SCANCEL = r"""#!/bin/sh
echo "$@" >> "$FAKES/scancel"
if [ "$*" = "--signal=TERM 42" ]; then kill -TERM "$(cat "$FAKES/task")"; fi
"""

SCONTROL = 'echo "$@" >> "$FAKES/scontrol"'
SQUEUE = 'cat "$FAKES/state"'

# The remote end: sshd hands the last argument to the login shell.
SSH = r"""#!/bin/sh
for last; do :; done
exec sh -c "$last"
"""

PROGRAMS = {
    "distill": DISTILL,
    "srun": SRUN,
    "scancel": SCANCEL,
    "scontrol": f"#!/bin/sh\n{SCONTROL}\n",
    "squeue": f"#!/bin/sh\n{SQUEUE}\n",
    "sbatch": '#!/bin/sh\nSLURM_JOB_ID=42 exec bash -s "$@"\n',
    "ssh": SSH,
}


class Fakes:
    """A folder of such programs.

    Attributes:
      path: the folder; also the working directory for what runs them.
      environment: the environment in which they are found.
    """

    def __init__(self, path):
        self.path = path
        programs = path / "bin"
        programs.mkdir()
        for name, text in PROGRAMS.items():
            self.program(name, text)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:/usr/bin:/bin",
            "FAKES": str(path),
            "HOME": str(path),
            "SLURM_JOB_ID": "42",
        }
        self.codes("0")
        self.write("state", "RUNNING\n")

    def program(self, name, text):
        """Adds a program, or replaces one."""
        path = self.path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def codes(self, *codes):
        """What distill exits with, run by run, from now on."""
        (self.path / "runs").unlink(missing_ok=True)
        self.write("codes", "".join(f"{code}\n" for code in codes))

    def write(self, name, text):
        """Writes a file of the folder."""
        (self.path / name).write_text(text)

    def read(self, name):
        """A file of the folder; empty if it is not there."""
        path = self.path / name
        return path.read_text() if path.exists() else ""

    @property
    def runs(self):
        """How often distill was run."""
        return int(self.read("runs") or 0)

    def arguments(self, run=1):
        """The arguments of one run of distill."""
        return (self.path / f"arguments.{run}").read_bytes().decode().split("\0")[:-1]

    def wait_for(self, name, seconds=20.0):
        """The text of a file, as soon as it has one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if text := self.read(name).strip():
                return text
            time.sleep(0.01)
        raise TimeoutError(f"{name} was not written within {seconds} s")
