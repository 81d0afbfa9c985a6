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
        "--coordinator_address",
        type=flag_types.host_and_port,
        metavar="HOST:PORT",
        help="address of process 0, if the cluster is not recognised",
    )
    command.add_argument(
        "--num_processes",
        type=flag_types.positive,
        metavar="N",
        help="number of processes, if the cluster is not recognised",
    )
    command.add_argument(
        "--process_id",
        type=flag_types.not_negative,
        metavar="I",
        help="number of this process, 0 to N-1, if the cluster is not recognised",
    )
    command.add_argument(
        "--heartbeat_timeout_seconds",
        type=flag_types.positive,
        default=100,
        help="seconds without a heartbeat after which the run aborts; default: 100",
    )


def check(options: argparse.Namespace) -> None:
    """Raises ValueError if the flags do not say which of the processes this one is."""
    number, process = options.num_processes, options.process_id
    needed = {"--num_processes": number, "--process_id": process}
    missing = [flag for flag, value in needed.items() if value is None]
    if options.coordinator_address is not None and missing and not options.multiprocess:
        raise ValueError(
            f"--coordinator_address={options.coordinator_address} needs {' and '.join(missing)} too; give all three in "
            "every process, or add --multiprocess in a cluster that is recognised (TPU pods, GKE, Slurm and MPI)"
        )
    if number is not None and process is not None and process >= number:
        raise ValueError(
            f"--process_id={process} is not one of --num_processes={number} processes, which count from 0: expected 0 to "
            f"{number - 1}"
        )
