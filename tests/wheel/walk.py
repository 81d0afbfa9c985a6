"""Runs commands of an installed distill one after the other in one process: JSON in, JSON out.

Not a test: ``tests/wheel/conftest.py`` has the Python of another environment run it, where only the wheel is installed.
"""

import contextlib
import gc
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

    gc.set_threshold(100_000, 50, 50)  # by default, a tenth of the time goes into passes over what was imported
    done = [run(main.main, arguments) for arguments in json.load(sys.stdin)]
    print(json.dumps({"from": distill.__file__, "done": done}))
