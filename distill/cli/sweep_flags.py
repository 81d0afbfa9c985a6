"""The flags of ``distill sweep``."""

import argparse

from distill.cli import flag_types, process_flags


def add(sweep: argparse.ArgumentParser) -> None:
    """Adds them to the command's parser."""
    sweep.add_argument(
        "sweep",
        nargs="*",
        metavar="FILE",
        help="a sweep file (YAML or JSON), or the directory of a sweep; `status FILE` shows the state of its runs",
    )
    sweep.add_argument("--list", action="store_true", help="list the shipped sweep files")
    sweep.add_argument(
        "--print", dest="print_name", metavar="NAME", help="print a sweep file, such as demo_rates; > my.yaml copies it"
    )
    sweep.add_argument("--directory", help="folder of the runs; overrides the file's")
    sweep.add_argument(
        "--more",
        action="append",
        default=[],
        metavar="JSON",
        help="also train these points: an object AXIS: value, or list of values; AXIS may be a macro; may repeat",
    )
    sweep.add_argument(
        "--drop_more",
        action="append",
        nargs="?",
        type=flag_types.point,
        default=[],
        metavar="JSON",
        help="drop the points that earlier --more added, or those with these values: an object AXIS: value, or list of "
        "values; their folders are kept; may repeat",
    )
    sweep.add_argument("--gin_bindings", action="append", default=[], help=argparse.SUPPRESS)
    sweep.add_argument("--gin_search_paths", default="", help=argparse.SUPPRESS)
    sweep.add_argument(
        "--gin_module",
        action="append",
        default=[],
        metavar="MODULE",
        help="your own module that gin files may import and name; may repeat",
    )
    sweep.add_argument(
        "--dry_run", action="store_true", help="list and check the runs, estimate time and cost, and train nothing"
    )
    sweep.add_argument(
        "--topology",
        metavar="TOPOLOGY",
        help="with --dry_run: estimate from the least time on this TPU slice, such as v5e:4x4",
    )
    sweep.add_argument(
        "--price_per_chip_hour",
        type=float,
        metavar="PRICE",
        help="with --dry_run: price of a chip per hour, or of a core for runs on CPUs; adds the cost",
    )
    sweep.add_argument(
        "--workers",
        type=flag_types.positive,
        metavar="N",
        help="train N runs at once, each in a process; by default one after another in this process",
    )
    sweep.add_argument(
        "--executor", choices=("processes", "ray"), default="processes", help="what starts the runs; default: processes"
    )
    sweep.add_argument("--ray_address", default="auto", help="with ray: the cluster; local starts one; default: auto")
    sweep.add_argument("--cpus_per_run", type=float, default=1.0, help="with ray: processors of a run; default: 1")
    sweep.add_argument("--gpus_per_run", type=float, default=0.0, help="with ray: GPUs of a run; default: 0")
    sweep.add_argument("--run", action="append", default=[], metavar="NAME", help="train this run only; may repeat")
    sweep.add_argument(
        "--index",
        type=int,
        metavar="I",
        help="train only run number I of --dry_run, from 0; with joint_seeds, group number I",
    )
    sweep.add_argument(
        "--report_only", action="store_true", help="write table, CSV and plot of the finished runs, and train nothing"
    )
    sweep.add_argument(
        "--retry_failed", action="store_true", help="repeat runs that failed before; with --run or --index: those"
    )
    sweep.add_argument(
        "--retries",
        type=flag_types.not_negative,
        default=0,
        metavar="N",
        help="repeat a run that fails up to N times; default: 0",
    )
    sweep.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    sweep.add_argument("--leased", action="store_true", help=argparse.SUPPRESS)
    process_flags.add(sweep)
    sweep.epilog = "--gin.NAME=VALUE adds a binding to every run."
