"""Runs commands of an installed distill one after the other in one process: JSON in, JSON out.

Not a test: ``tests/wheel/conftest.py`` has the Python of another environment run it, where only the wheel is installed.
"""

import contextlib
import io
import json
import sys
import time
import traceback


def run(main, arguments):
    """The exit code, output and seconds of one command."""
    out, err = io.StringIO(), io.StringIO()
    start = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        except Exception:
            code = 1
            traceback.print_exc()
    seconds = round(time.process_time() - start, 2)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds}


if __name__ == "__main__":
    import distill
    from distill.cli import main

    done = [run(main.main, arguments) for arguments in json.load(sys.stdin)]
    print(json.dumps({"from": distill.__file__, "done": done}))
