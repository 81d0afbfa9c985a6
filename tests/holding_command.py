"""Holds the lock that the command line names first, until the file that it names second exists."""

import os
import sys
import time

from distill import locking


def main() -> None:
    locking.LEASE, locking.HEARTBEAT, locking._SETTLE = 3.0, 0.5, 0.5
    _, path, release = sys.argv
    try:
        with locking.held(path, path, "choose another MODEL_DIR"):
            print("held", flush=True)
            while not os.path.exists(release):
                time.sleep(0.05)
    except locking.Locked as error:
        print(error, flush=True)
