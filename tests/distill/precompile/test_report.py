"""The printed report: units, steps that fit and that do not, and the table of a search."""

import io

import pytest
import rich.console

from distill.precompile import report

GIB = 2**30
STEP = {
    "fits": True, "margin_bytes": 4 * GIB, "usable_hbm_bytes": 16 * GIB, "hbm_bytes_by_kind": {"parameters": 3 * GIB},
    "flops": 2.5e12, "matmul_flops": 2e12, "hbm_bytes_accessed": 1.5 * GIB, "bytes_accessed": 2 * GIB, "wire_bytes": 512.0,
    "roofline": {"compute": 0.010, "memory": 0.002, "network": 0.0, "bound_by": "compute", "seconds": 0.010},
    "bounded_loops": [], "unknown_loops": [], "compile_seconds": 1.25, "mfu_bound": 0.5, "counted_on": "v5e:2x2",
    "collectives": [{"kind": "all-gather", "axes": "fsdp", "count": 24.0, "result_bytes": 2**20, "wire_bytes": 2**19}],
}  # fmt: skip


def printed(render, *arguments):
    out = io.StringIO()
    render(*arguments, rich.console.Console(file=out, width=110, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize(
    "count, expected",
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (1.5 * 2**20, "1.50 MiB"), (2000 * GIB, "2,000.00 GiB"),
     (-3 * GIB, "-3.00 GiB")],
)  # fmt: skip
def test_bytes_for_people(count, expected):
    assert report._size(count) == expected


def test_a_step_that_fits():
    text = printed(report.render, {"train": STEP}, "the heading")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "the heading"
    for part in (
        "parameters 3.00 GiB", "peak, with the program 12.00 GiB", "operations in products 2.000 TFLOP 10.00 ms",
        "model FLOPs utilisation at most 50.0 %", "all-gather fsdp 24 1.00 MiB 512.00 KiB", "compiled in 1.2 s",
    ):  # fmt: skip
        assert part in lines
    assert any(line.startswith("train: fits, with 4.00 GiB") for line in lines)
    assert any(line.startswith("bound by compute: ") and "10.00 ms" in line for line in lines)
    assert "unknown" not in text


def test_a_step_that_does_not_fit_says_how_much_is_missing():
    step = {**STEP, "fits": False, "margin_bytes": -2 * GIB, "flops": None, "suggestions": ["a smaller batch"]}
    text = printed(report.render, {"train": step}, "")
    assert "train: does not fit; it needs 18.00 GiB of 16.00 GiB, 2.00 GiB too much" in text
    assert "a smaller batch" in text
    assert "TFLOP" not in text and "all-gather" not in text


def test_loops_of_unknown_length_are_named():
    text = printed(report.render, {"decode": {**STEP, "unknown_loops": ["while.3"], "collectives": []}}, "")
    assert "trip count is unknown: while.3" in text
    assert "Collectives" not in text


def test_a_search_lists_candidates_in_order():
    good = {
        "mesh": (1, 4, 1),
        "batch_size": 64,
        "remat_policy": "none",
        "result": STEP,
        "tokens_per_second_per_chip": 12345.6,
    }
    bad = {**good, "mesh": (4, 1, 1), "result": {**STEP, "fits": False, "margin_bytes": -GIB}}
    lines = [line.split() for line in printed(report.render_search, [good, bad]).splitlines()]
    first, second = (next(line for line in lines if line[:1] == [mesh]) for mesh in ("1×4×1", "4×1×1"))
    assert lines.index(first) < lines.index(second)
    assert first[1:] == ["64", "none", "yes", "12.00", "GiB", "10.00", "ms", "compute", "50.0", "%", "12,346"]
    assert second[1:] == ["64", "none", "no", "17.00", "GiB"]
