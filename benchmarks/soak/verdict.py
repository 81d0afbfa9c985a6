"""From the samples of a leg to its verdict: the drift of memory, files and processor time over blocks."""

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

UNITS = {"train": "step", "infer": "row", "extract": "reply"}
MEMORY_LIMIT, TIME_LIMIT = 0.02, 0.05
BLOCKS = 12  # of a leg with one attempt
# Of training, after the first step of an attempt; other legs leave out their first sixth, at most 300 s.
WARM_UP_S = 60.0


@dataclasses.dataclass(frozen=True)
class Drift:
    """A line through block means.

    Attributes:
      mean: of the blocks.
      share: change over the whole leg by the fitted line, as a share of the mean.
      low, high: its 95 % interval (Student's t, blocks - 2 degrees of freedom); infinite with two blocks.
    """

    mean: float
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.share:+.2f} % [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


def drift(times: Sequence[float], values: Sequence[float]) -> Drift:
    """The least-squares line of ``values`` over ``times``, as a change from the first time to the last.

    Raises:
      ValueError: fewer than two different times.
    """
    import numpy as np
    from scipy import stats

    if len(set(times)) < 2:
        raise ValueError(f"a drift needs at least two blocks; got {len(values)}. Run the leg for longer")
    x, y = np.asarray(times, float), np.asarray(values, float)
    span, mean = x.max() - x.min(), float(y.mean())
    fit = stats.linregress(x, y)
    share = float(fit.slope * span / mean)
    width = math.inf if len(x) < 3 else float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr * span / mean)
    return Drift(mean, share, share - width, share + width)


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The samples and the ends of attempts in a leg's file; a torn last line is left out."""
    rows = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if "rss_mb" in row], [row for row in rows if "exit_code" in row]


def blocks(leg: str, samples: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Samples after warm-up, in blocks: attempts of ``train``, else equal spans of time; none of a single sample."""
    if leg == "train":
        parts = []
        for attempt, rows in itertools.groupby(samples, key=lambda row: row["attempt"]):
            stepping = [row for row in rows if row["work"]]
            if attempt and stepping:
                begin = stepping[0]["age"] + WARM_UP_S
                parts.append([row for row in stepping if row["age"] >= begin])
    else:
        end = max((row["age"] for row in samples), default=0.0)
        begin = min(300.0, end / 6)
        warm = [row for row in samples if row["age"] >= begin and row["work"]]
        size = (end - begin) / BLOCKS or 1.0
        keyed = [(min(BLOCKS - 1, int((row["age"] - begin) / size)), row) for row in warm]
        parts = [[row for _, row in rows] for _, rows in itertools.groupby(keyed, key=lambda pair: pair[0])]
    return [part for part in parts if len(part) > 1 and part[-1]["work"] > part[0]["work"]]


def per_unit(part: Sequence[Mapping[str, Any]], of: str) -> float:
    """Milliseconds of ``of`` (``cpu_s`` or ``seconds``) per step or row in a block."""
    return 1e3 * (part[-1][of] - part[0][of]) / (part[-1]["work"] - part[0]["work"])


def verdict(leg: str, samples: Sequence[dict[str, Any]], ends: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a leg, and whether it passes.

    Raises:
      ValueError: fewer than two blocks.
    """
    parts = blocks(leg, samples)
    middles = [statistics.mean(row["seconds"] for row in part) for part in parts]

    def fitted(values: Sequence[float]) -> Drift:
        return drift(middles, values)

    memory = fitted([statistics.median(row["rss_mb"] for row in part) for part in parts])
    mean = fitted([statistics.mean(row["rss_mb"] for row in part) for part in parts])
    controls = [statistics.mean(row["control_s"] for row in part) for part in parts]
    cpu = fitted([per_unit(part, "cpu_s") for part in parts])
    relative = fitted([per_unit(part, "cpu_s") / 1e3 / control for part, control in zip(parts, controls)])
    wall = fitted([per_unit(part, "seconds") for part in parts])
    speed = fitted(controls)
    # Within an attempt: the samples of all attempts by age, each around the mean of its attempt.
    centred = [
        (row["age"], row["rss_mb"] - statistics.mean(r["rss_mb"] for r in part)) for part in parts for row in part
    ]
    within = None
    if leg == "train" and len({age for age, _ in centred}) > 1:
        within = drift([age for age, _ in centred], [mean.mean + value for _, value in centred])
    files = [int(min(row["files"] for row in part)) for part in parts]
    checks = {
        "memory": abs(memory.share) <= MEMORY_LIMIT,
        "open files": len(set(files)) == 1,
        "processor time": relative.share <= TIME_LIMIT,  # it falls if the other programs of the machine end
        "exit codes and counts": bool(ends) and all(end["ok"] for end in ends),
    }
    return {
        "leg": leg,
        "minutes": round((samples[-1]["seconds"] - samples[0]["seconds"]) / 60, 1),
        "attempts": len({row["attempt"] for row in samples}),
        "samples": len(samples),
        "blocks": len(parts),
        "work": sum(part[-1]["work"] - part[0]["work"] for part in parts),
        "unit": UNITS[leg],
        "memory_mb": dataclasses.asdict(memory),
        "memory_mean_mb": dataclasses.asdict(mean),
        "memory_peak_mb": max(row["rss_mb"] for part in parts for row in part),
        "memory_within_an_attempt_mb": dataclasses.asdict(within) if within else None,
        "files": [min(files), max(files)],
        "threads": [int(of(row["threads"] for part in parts for row in part)) for of in (min, max)],
        "cpu_ms_per_unit": dataclasses.asdict(cpu),
        "cpu_in_controls_per_unit": dataclasses.asdict(relative),
        "wall_ms_per_unit": dataclasses.asdict(wall),
        "control_s": dataclasses.asdict(speed),
        "ends": list(ends),
        "checks": checks,
        "passed": all(checks.values()),
    }


def table(found: Mapping[str, Any]) -> str:
    """A verdict in lines to print."""

    def line(name: str, key: str, unit: str, check: str = "") -> str:
        each = Drift(**found[key])
        mark = "" if not check else "  ok" if found["checks"][check] else "  FAILED"
        return f"  {name:34} {each.mean:10.3f} {unit:12} drift {each}{mark}"

    unit = found["unit"]
    units = f"{unit[:-1]}ies" if unit == "reply" else f"{unit}s"
    lines = [
        f"{found['leg']}: {found['minutes']} min, {found['attempts']} attempt(s), {found['samples']} samples, "
        f"{found['work']:,} {units} in {found['blocks']} blocks: {'passed' if found['passed'] else 'FAILED'}",
        line("resident memory, median", "memory_mb", "MB", "memory"),
        line("mean memory (no limit)", "memory_mean_mb", "MB"),
    ]
    if found["memory_within_an_attempt_mb"]:
        lines.append(line("mean within an attempt (no limit)", "memory_within_an_attempt_mb", "MB"))
    lines += [
        f"  {'peak memory':34} {found['memory_peak_mb']:10.3f} MB",
        f"  {'open files, least per block':34} {found['files'][0]:6} to {found['files'][1]}"
        + ("  ok" if found["checks"]["open files"] else "  FAILED"),
        f"  {'threads':34} {found['threads'][0]:6} to {found['threads'][1]}",
        line("processor time", "cpu_ms_per_unit", f"ms/{unit}"),
        line("processor time / control", "cpu_in_controls_per_unit", f"per {unit}", "processor time"),
        line("wall time (no limit)", "wall_ms_per_unit", f"ms/{unit}"),
        line("control computation", "control_s", "s"),
        "  ends: "
        + ("  ok  " if found["checks"]["exit codes and counts"] else "  FAILED  ")
        + "; ".join(
            f"{number} × {end}"
            for end, number in collections.Counter(
                json.dumps({name: value for name, value in end.items() if name not in ("seconds", "attempt", "log")})
                for end in found["ends"]
            ).items()
        ),
    ]
    return "\n".join(lines)
