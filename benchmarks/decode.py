"""Our decoding against `generate` of transformers' PyTorch T5, on the same CPU, in one process: labels and rationales.

Our side is the code of `distill infer`: `distill.inference.decoder.Decoder`, which sorts inputs by length and pads a
batch to a bucket. The other side gets the same batches, padded to their longest row, which is less padding. Both have
the same random float32 parameters (T5 1.1 Small's dims by default), exported by `distill.checkpoints`. The student
never generates EOS, so both sides decode exactly the requested number of tokens in every row. A case is timed only
after both sides have decoded equal tokens for its rows. The sides alternate, and the ratio is computed per round.
Compilation is reported separately. Our side also returns each answer's log-probability; the other side does not compute
it.

    python -m benchmarks.decode [--threads=1,2] [--batch_sizes=1,8,32] [--rounds=5] [--json] [--plot=FILE.png]
"""

import argparse
import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import sides

if TYPE_CHECKING:
    import numpy as np

    from distill.inference.evaluate import DecodeConfig
    from distill.model.network import T5Config


@dataclasses.dataclass(frozen=True)
class Case:
    """A decoding task.

    Attributes:
      name: name of the case.
      targets: tokens per answer.
      beams: number of beams; 1 decodes greedily.
      unit: the unit of throughput, ``labels`` or ``tokens``.
    """

    name: str
    targets: int
    beams: int
    unit: str


# CommonsenseQA's labels have 3 T5 tokens, SVAMP's equations about 10; rationales of both mostly have 20 to 100.
CASES = {
    case.name: case
    for case in (
        Case("cqa_label", 3, 1, "labels"),
        Case("cqa_label_beam4", 3, 4, "labels"),
        Case("svamp_label", 10, 1, "labels"),
        Case("svamp_label_beam4", 10, 4, "labels"),
        Case("rationale", 64, 1, "tokens"),
    )
}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated names: " + ", ".join(CASES))
    parser.add_argument(
        "--threads", default="1", help="comma-separated numbers of threads, each run in its own process"
    )
    parser.add_argument("--batch_sizes", default="1,8,32", help="comma-separated numbers of rows per batch")
    parser.add_argument(
        "--batches", type=int, default=2, help="batches per timing (with batch size 1: 8 labels or 2 rationales)"
    )
    parser.add_argument("--inputs", type=float, default=50, help="mean tokens per input (CommonsenseQA's: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab", type=int, default=32128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--mlp", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--plot", help="write a plot of the ratios to this file")
    options = parser.parse_args(given)
    options.cases = [name.strip() for name in options.cases.split(",")]
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"--cases takes names of {', '.join(CASES)}; got {', '.join(unknown)}")
    for flag in ("threads", "batch_sizes"):
        text = getattr(options, flag)
        try:
            numbers = [int(number) for number in text.split(",")]
        except ValueError:
            numbers = [0]
        if min(numbers) < 1:
            parser.error(f"--{flag} takes whole numbers ≥ 1, comma-separated; got {text!r}")
        setattr(options, flag, numbers)
    return options


Decode = Callable[[Sequence["np.ndarray"]], list[list[int]]]


def our_side(model: "T5Config", params: Any, config: "DecodeConfig") -> Decode:
    """Returns a function from rows to tokens that uses our decoder, on one device."""
    import jax
    from flax import linen as nn

    from distill.inference.evaluate import Decoder
    from distill.sharding import partitioning

    mesh = partitioning.MeshConfig().build(jax.devices()[:1])
    decoder = Decoder(model, mesh, config)

    def decode(rows):
        with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
            return [prediction.tokens.tolist() for prediction in decoder(params, rows)]

    return decode


def their_side(model: Any, config: "DecodeConfig") -> Decode:
    """Returns a function from rows to tokens that uses ``generate``; batches are sorted by length as on our side."""
    beams = {"num_beams": 1}
    if config.method == "beam":
        beams = {"num_beams": config.num_beams, "length_penalty": config.length_penalty, "early_stopping": "never"}

    def decode(rows):
        out: list[list[int]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), config.batch_size):
            indices = order[start : start + config.batch_size]
            ids = sides.padded([rows[i] for i in indices])
            found = sides.transformers_generate(model, ids, max_new_tokens=config.max_decode_len, **beams)
            for index, tokens in zip(indices, found.tolist()):
                out[index] = tokens
        return out

    return decode


def check_agreement(ours: list[list[int]], theirs: list[list[int]], length: int, what: str) -> None:
    """Checks that the sides decode the same tokens, and all of them.

    Raises:
      ValueError: a row differs between the two sides, or does not have ``length`` tokens.
    """
    for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            place = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            raise ValueError(
                f"{what}: the sides disagree, so their times cannot be compared: row {row} has from token {place} on "
                f"{a[place : place + 4]} here and {b[place : place + 4]} in transformers"
            )
        if len(a) != length:
            raise ValueError(f"{what}: row {row} has {len(a)} tokens; expected {length} in every row")


def measure(options: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Checks and times every case at every batch size. Call :func:`sides.use_threads` first.

    Raises:
      ValueError: the sides disagree.
    """
    import jax

    from distill.checkpoints import huggingface
    from distill.inference.evaluate import DecodeConfig
    from distill.model.network import T5Config

    model = T5Config(
        options.vocab, options.width, options.heads, 64, options.mlp, options.layers, options.layers, dropout_rate=0.0
    )
    params = sides.endless_params(model, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_pretrained_folder(params, model, folder)
        torch_model = sides.load_transformers(folder, threads)
    params = jax.device_put(params)
    results = []
    for name in options.cases:
        for batch in options.batch_sizes:
            case = CASES[name]
            config = DecodeConfig(
                max_decode_len=case.targets,
                batch_size=batch,
                method="greedy" if case.beams == 1 else "beam",
                num_beams=case.beams,
            )
            decoders = {"ours": our_side(model, params, config), "theirs": their_side(torch_model, config)}
            results.append({"threads": threads, **compare(case, batch, decoders, options)})
            progress(results[-1])
    return results


def compare(case: Case, batch: int, decoders: dict[str, Decode], options: argparse.Namespace) -> dict[str, Any]:
    """Checks that the sides agree on a case, then times them alternately.

    Raises:
      ValueError: the sides disagree, or a row ends early.
    """
    single = 2 if case.unit == "tokens" else 8
    number = single if batch == 1 else options.batches * batch
    rows = sides.input_rows(number, options.inputs, options.vocab, seed=options.seed)
    calls = {side: functools.partial(decode, rows) for side, decode in decoders.items()}
    first = {side: sides.timed(call) for side, call in calls.items()}
    check_agreement(first["ours"].result, first["theirs"].result, case.targets, f"{case.name}, batch {batch}")
    times = sides.in_turn(calls, options.rounds)
    units = number * (case.targets if case.unit == "tokens" else 1)
    seconds = {side: [one.seconds for one in timings] for side, timings in times.items()}
    used = {side: [one.cpu_seconds for one in timings] for side, timings in times.items()}
    median = {side: statistics.median(values) for side, values in seconds.items()}
    return {
        "case": case.name,
        "batch": batch,
        "rows": number,
        "longest_input": max(map(len, rows)),
        "targets": case.targets,
        "beams": case.beams,
        "unit": case.unit,
        "per_second": {side: round(units / value, 2) for side, value in median.items()},
        "seconds": {side: round(value, 4) for side, value in median.items()},
        "ratio": sides.ratios(seconds["ours"], seconds["theirs"]),
        "cpu_ratio": sides.ratios(used["ours"], used["theirs"]),
        "first_call_extra_seconds": {side: round(first[side].seconds - median[side], 2) for side in median},
    }


def progress(row: dict[str, Any]) -> None:
    """Reports the benchmark's progress on stderr."""
    print(
        f"{row['case']}, {row['threads']} thread(s), batch {row['batch']}: {row['per_second']} {row['unit']}/s, "
        f"ratio {row['ratio']}, of processor time {row['cpu_ratio']['median']}",
        file=sys.stderr,
        flush=True,
    )


def in_a_process(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Runs the measurement with ``threads`` threads in a new process; the number is fixed when a process starts."""
    given = {name: value for name, value in vars(options).items() if name not in ("threads", "json", "plot")}
    flags = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in given.items()
    ]
    command = [sys.executable, "-m", "benchmarks.decode", *flags, f"--threads={threads}", "--json"]
    line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(line.splitlines()[-1])


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a Markdown table. The last ratio is of processor time, which other processes on the machine affect less."""
    titles = (
        "case",
        "tokens",
        "beams",
        "threads",
        "batch",
        "ours",
        "transformers",
        "ratio",
        "from … to",
        "CPU",
        "1st call",
    )
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for row in rows:
        speed, ratio = row["per_second"], row["ratio"]
        print(
            f"| {row['case']} | {row['targets']} | {row['beams']} | {row['threads']} | {row['batch']} "
            f"| {speed['ours']:,.1f} {row['unit']}/s | {speed['theirs']:,.1f} | {ratio['median']:.2f} "
            f"| {ratio['least']:.2f} … {ratio['most']:.2f} | {row['cpu_ratio']['median']:.2f} "
            f"| + {row['first_call_extra_seconds']['ours']:.1f} s |"
        )


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Plots every case's ratio with its spread over the rounds, one panel per number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads, batches = (sorted({row[key] for row in rows}) for key in ("threads", "batch"))
    names = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = pyplot.subplots(1, len(threads), figsize=(5.2 * len(threads), 3.6), sharey=True, squeeze=False)
    width = 0.8 / len(batches)
    for axis, number in zip(axes[0], threads):
        for shift, batch in enumerate(batches):
            mine = [row for row in rows if row["threads"] == number and row["batch"] == batch]
            ratio = [row["ratio"] for row in mine]
            middle = [one["median"] for one in ratio]
            spread = [[one["median"] - one["least"] for one in ratio], [one["most"] - one["median"] for one in ratio]]
            places = [names.index(row["case"]) + (shift + 0.5) * width - 0.4 for row in mine]
            axis.bar(places, middle, width, yerr=spread, capsize=2, label=f"batch {batch}")
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=7)
        axis.set_title(f"{number} thread{'s' if number > 1 else ''}", fontsize=9)
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("our speed ÷ transformers'")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    options = arguments()
    if len(options.threads) > 1:
        parts = [in_a_process(options, threads) for threads in options.threads]
        result = {**parts[0], "results": [row for part in parts for row in part["results"]]}
    else:
        sides.use_threads(options.threads[0])
        import jax
        import torch
        import transformers

        rows = measure(options, options.threads[0])
        versions = {module.__name__: module.__version__ for module in (jax, torch, transformers)}
        dims = {
            name: getattr(options, name) for name in ("vocab", "width", "heads", "mlp", "layers", "inputs", "rounds")
        }
        result = {**versions, **dims, "results": rows}
    if options.plot:
        plot(result["results"], options.plot)
    if options.json:
        print(json.dumps(result))
    else:
        report(result["results"])


if __name__ == "__main__":
    main()
