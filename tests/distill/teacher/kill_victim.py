"""Runs extractions in forked children, so that a test can kill them without waiting for imports each time.

Reads one JSON object a line (arguments of the job); for each prints the child's process id, and then, when it is gone, its
exit status (negative: the signal).
"""

import json
import os
import sys

from distill.tasks.records import Record
from distill.teacher import ExtractConfig, ServerConfig, extract
from distill.teacher.job.progress import Silent


def job(url: str, output: str, rows: int) -> None:
    """One extraction over numbered rows."""
    teacher = ServerConfig(model="stub", base_url=url, concurrency=16, attempts=1)
    records = [Record(id=f"r{n}", input=f"message number {n}", label="billing") for n in range(rows)]
    config = ExtractConfig(output=output, prompt="template", teachers=(teacher,), records=records)
    extract(config, progress=Silent())


def main() -> None:
    import openai.resources.chat  # noqa: F401  (loaded once, here, not in every child)

    from distill.teacher.clients import transport  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                job(**json.loads(line))
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
