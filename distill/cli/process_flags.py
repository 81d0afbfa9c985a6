"""The flags of commands that run as several processes."""

import argparse

from distill.cli import flag_types


def add(command: argparse.ArgumentParser) -> None:
    """Adds them to a command's parser."""
    command.add_argument(
        "--multiprocess",
        action="store_true",
        help="run as one of several processes; TPU pods, GKE, Slurm and MPI are recognised",
    )
    command.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="address of process 0, if the cluster is not recognised"
    )
    command.add_argument(
        "--num_processes", type=int, metavar="N", help="number of processes, if the cluster is not recognised"
    )
    command.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="number of this process, 0 to N-1, if the cluster is not recognised",
    )
    command.add_argument(
        "--heartbeat_timeout_seconds",
        type=flag_types.positive,
        default=100,
        help="seconds without a heartbeat after which the run aborts; default: 100",
    )
