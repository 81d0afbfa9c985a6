"""The printed report of compiled steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from distill.precompile.chips import GIB


def _size(count: float) -> str:
    """Formats bytes for people."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:,.0f} B"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"


def render(steps: Mapping[str, Mapping[str, Any]], heading: str, console: rich.console.Console | None = None) -> None:
    """Prints the results of :func:`distill.precompile.estimates.estimate` for each step."""
    console = console or rich.console.Console(width=110, highlight=False)
    console.print(heading)
    for name, step in steps.items():
        _memory(name, step, console)
        if step["flops"] is not None:
            _work(name, step, console)
            _collectives(name, step, console)


def _table(title: str, *columns: str) -> rich.table.Table:
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _memory(name: str, step: Mapping[str, Any], console: rich.console.Console) -> None:
    margin, usable = step["margin_bytes"], step["usable_hbm_bytes"]
    needed = usable - margin
    if step["fits"]:
        console.print(f"\n{name}: fits, with {_size(margin)} to spare of {_size(usable)} a device may use")
    else:
        console.print(f"\n{name}: does not fit; it needs {_size(needed)} of {_size(usable)}, {_size(-margin)} too much")
    table = _table(f"HBM of a device ({name})", "kind", "bytes")
    for kind, count in step["hbm_bytes_by_kind"].items():
        table.add_row(kind, _size(count))
    table.add_row("peak, with the program", _size(needed))
    console.print(table)
    if step.get("largest_buffers"):
        table = rich.table.Table(title="Largest buffers", title_justify="left", box=rich.box.SIMPLE_HEAD)
        table.add_column("bytes", justify="right", no_wrap=True)
        table.add_column("shape", no_wrap=True)
        table.add_column("from")
        for buffer in step["largest_buffers"]:
            table.add_row(_size(buffer["bytes"]), buffer["shape"], buffer["source"])
        console.print(table)
    for suggestion in step.get("suggestions", ()):
        console.print(f"  would help: {suggestion}")


def _work(name: str, step: Mapping[str, Any], console: rich.console.Console) -> None:
    bound = step["roofline"]
    table = _table(f"A step of a device ({name})", "what", "amount", "least time")
    table.add_row("operations in products", f"{step['matmul_flops'] / 1e12:,.3f} TFLOP", _time(bound["compute"]))
    table.add_row("all operations", f"{step['flops'] / 1e12:,.3f} TFLOP", "")
    table.add_row("bytes to and from HBM", _size(step["hbm_bytes_accessed"]), _time(bound["memory"]))
    table.add_row("bytes in any memory", _size(step["bytes_accessed"]), "")
    table.add_row("bytes sent to other chips", _size(step["wire_bytes"]), _time(bound["network"]))
    console.print(table)
    console.print(f"bound by {bound['bound_by']}: a step takes at least {_time(bound['seconds'])}")
    lines = {
        "mfu_bound": lambda v: f"model FLOPs utilisation at most {100 * v:.1f} %",
        "tokens_per_second_bound": lambda v: f"at most {v:,.0f} tokens/s, padding included",
        "rows_per_second_bound": lambda v: f"at most {v:,.0f} rows/s",
        "examples_per_second_bound": lambda v: f"at most {v:,.0f} examples/s",
        "epochs_per_hour_bound": lambda v: f"at most {v:,.2f} epochs an hour",
        "run_hours_bound": lambda v: f"the run's steps take at least {v:,.2f} hours",
        "run_cost_bound": lambda v: f"the run's steps cost at least {v:,.2f}",
    }
    for key, say in lines.items():
        if key in step:
            console.print(say(step[key]))
    if not step["fits"]:
        console.print(f"buffers, operations and bytes are those of the program for {step['counted_on']}")
    if step["bounded_loops"]:
        console.print("counted as if every loop that may end early ran to its end (decoding to its last token)")
    if step["unknown_loops"]:
        console.print(f"counted once, because the trip count is unknown: {', '.join(step['unknown_loops'])}")
    console.print(f"compiled in {step['compile_seconds']:.1f} s")


def _collectives(name: str, step: Mapping[str, Any], console: rich.console.Console) -> None:
    if not step["collectives"]:
        return
    table = _table(f"Collectives of a device and step ({name})", "kind", "axes", "times", "result", "sent")
    for one in step["collectives"]:
        sizes = (_size(one["result_bytes"]), _size(one["wire_bytes"]))
        table.add_row(one["kind"], one["axes"], f"{one['count']:,.0f}", *sizes)
    console.print(table)


def render_search(rows: Sequence[Mapping[str, Any]], console: rich.console.Console | None = None) -> None:
    """Prints the candidates of a search, the best first."""
    console = console or rich.console.Console(width=110, highlight=False)
    table = _table("Search", "mesh", "batch", "remat", "fits", "needs", "step", "bound by", "MFU", "tokens/s/chip")
    for row in rows:
        step = row["result"]
        fits = "yes" if step["fits"] else "no"
        needs = _size(step["usable_hbm_bytes"] - step["margin_bytes"])
        speed = ["", "", "", ""]
        if step["fits"]:
            bound = step["roofline"]
            speed = [
                _time(bound["seconds"]),
                bound["bound_by"],
                f"{100 * step['mfu_bound']:.1f} %",
                f"{row['tokens_per_second_per_chip']:,.0f}",
            ]
        table.add_row("×".join(map(str, row["mesh"])), str(row["batch_size"]), row["remat_policy"], fits, needs, *speed)
    console.print(table)
