"""``distill train`` with a callback that ends the run: in process 1 alone, at the third step."""

import sys

from distill.api.run import Run
from distill.cli import main as command_line
from distill.training.callbacks import Callback, Stop


class Third(Callback):
    def on_log(self, at, metrics):
        if at.step == 3:
            raise Stop("it is flat")


def main() -> int:
    run = Run.run
    if "--process_id=1" in sys.argv:
        Run.run = lambda self, **given: run(self, callbacks=[Third()], **given)
    return command_line.main()
