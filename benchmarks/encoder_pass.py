"""One shared encoder pass against one pass per task: the TPU compiler's counts, and alternating steps on a CPU.

An example is a row with its label and its rationale. With two passes (`gin/runs/distill.gin`) its input is encoded
twice, with two prefixes. With one pass (`gin/runs/distill_shared.gin`) it is encoded once, and the prefixes start the
targets. Both are packed. For each data set and form, the window lengths are the multiples of 128 with the fewest
operations per example.

    python -m benchmarks.encoder_pass [--data_dir=DIR --vocabulary=t5.model] [--parts=tpu,cpu]
        [--output=encoder_pass.jsonl] [--plot=FILE.png]

Lengths are those of the rows in DIR if it holds the set; otherwise they are drawn with the means and deviations below.
Finished compilations are lines of the output file and are not repeated.
"""

import argparse
import functools
import importlib
import importlib.metadata
import json
import os
import statistics
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sides, tpu_scale

# T5 tokens of input, label and rationale with EOS: mean, and standard deviation of the logarithm.
# svamp, cqa: training rows of the paper's data with PaLM's rationales. esnli: the first explanations of the development
# set (github.com/OanaMariaCamburu/e-SNLI at 7b585a3).
LENGTHS = {
    "svamp": ((41.1, 0.25), (11.4, 0.23), (38.3, 0.35)),
    "cqa": ((46.4, 0.16), (2.9, 0.32), (30.9, 0.18)),
    "esnli": ((32.0, 0.31), (3.0, 0.43), (19.5, 0.42)),
}
PREFIXES = (4, 5)  # tokens of "[label] " and "[rationale] " in T5's vocabulary
FORMS = {"two": "distill", "one": "distill_shared"}
HARDWARE = "tpu_v5e_16"
WINDOWS = 128  # per batch on the TPU slice
STEP = 128


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="tpu,cpu")
    parser.add_argument("--sets", default="svamp,cqa,esnli")
    parser.add_argument("--data_dir")
    parser.add_argument("--vocabulary", default="t5", help="t5 or the path of a SentencePiece model")
    parser.add_argument("--output", default="encoder_pass.jsonl", help="finished compilations")
    parser.add_argument("--pairs", type=int, default=5, help="timed steps of each form on the CPU")
    parser.add_argument("--windows", type=int, default=4, help="windows per batch on the CPU")
    parser.add_argument("--plot")
    return parser.parse_args()


def lengths_of(name: str, options: argparse.Namespace, rows: int = 4000) -> np.ndarray:
    """int [rows, 3]: tokens of input, label and rationale of some examples."""
    if options.data_dir and (Path(options.data_dir) / name).is_dir():
        from distill.tasks import registration, vocabularies

        module = importlib.import_module(f"distill.tasks.{name}")
        names = registration.register(module.dataset(options.data_dir), vocabularies.load(options.vocabulary))
        dataset = registration.get(names.shared).get_dataset(None, "train", shuffle=False, trim_output_features=False)
        found = []
        for example in dataset.take(rows).as_numpy_iterator():
            tokens = [int((example[f"{part}_weights"] > 0).sum()) for part in ("targets", "rationale_targets")]
            found.append((len(example["inputs"]), *tokens))
        return np.array(found)
    rng = np.random.default_rng(0)
    columns = [rng.lognormal(np.log(mean) - sd**2 / 2, sd, rows) for mean, sd in LENGTHS[name]]
    return np.maximum(np.round(np.stack(columns, 1)), 2).astype(int)


def groups(form: str, lengths: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """Yields the (input, target) tokens of each example's sequences."""
    for inputs, *targets in lengths.tolist():
        present = [(prefix, number) for prefix, number in zip(PREFIXES, targets) if number]
        if form == "two":
            yield [(inputs + prefix, number) for prefix, number in present]
        else:
            yield [(inputs * (place == 0), prefix + number) for place, (prefix, number) in enumerate(present)]


def layout_of(form: str, windows: int, size: tuple[int, int]):
    """Returns the shape of a batch."""
    from distill.data.packing import Layout

    return Layout(windows, *size, shared_encoder=form == "one")


def examples_a_window(form: str, lengths: np.ndarray, size: tuple[int, int]) -> float:
    """Returns the examples per packed window; 0 if some do not fit."""
    from distill.data.packing import Planner

    planner, taken = Planner(layout_of(form, WINDOWS, size)), 0
    try:
        for group in groups(form, np.tile(lengths, (1 + 40 * WINDOWS // len(lengths), 1))):
            if not planner.add(group):
                return taken / WINDOWS
            taken += 1
    except ValueError:
        return 0.0
    raise ValueError("not enough rows to fill a batch")


def operations(config: Any, size: tuple[int, int]) -> float:
    """Returns the matmul operations of a window's training step, up to a constant factor; used to choose windows."""
    encoder, decoder = size
    attention = config.num_heads * config.head_dim
    mlp = config.embed_dim * config.mlp_dim * (len(config.mlp_activations) + 1)
    layer = 4 * config.embed_dim * attention + mlp
    encoding = encoder * (layer + 2 * encoder * attention)
    per_target = layer + 2 * config.embed_dim * attention + 2 * (decoder + encoder) * attention
    decoding = decoder * per_target + encoder * 2 * config.embed_dim * attention
    logits = decoder * config.embed_dim * config.vocab_size
    return config.num_encoder_layers * encoding + config.num_decoder_layers * decoding + logits


def windows_of(form: str, lengths: np.ndarray, config: Any) -> tuple[tuple[int, int], float]:
    """Returns the window lengths with the fewest operations per example, and the examples per window."""
    best = None
    for encoder in range(STEP, 5 * STEP + 1, STEP):
        for decoder in range(STEP, 4 * STEP + 1, STEP):
            number = examples_a_window(form, lengths, (encoder, decoder))
            cost = operations(config, (encoder, decoder)) / number if number else float("inf")
            if best is None or cost < best[0]:
                best = cost, (encoder, decoder), number
    assert best is not None
    return best[1], best[2]


def base() -> Any:
    """T5 1.1 Base."""
    from distill.model.network import T5Config

    return T5Config(32128, 768, 12, 64, 2048, 12, 12)


def tpu(name: str, form: str, options: argparse.Namespace, lengths: np.ndarray) -> dict[str, Any]:
    """Returns the work per example and chip of v5e:4x4, T5 1.1 Base."""
    size, number = windows_of(form, lengths, base())
    hardware = zlib.crc32(Path(f"gin/hardware/{HARDWARE}.gin").read_bytes())
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    key = {"form": form, "window": list(size), "hardware": hardware, **versions}
    window = json.dumps({"inputs": size[0], "targets": size[1]})
    bindings = {"TASK_FEATURE_LENGTHS": window, "BATCH_SIZE": WINDOWS}
    row = tpu_scale.find_or_make(
        Path(options.output),
        key,
        lambda: tpu_scale.train_of(tpu_scale.compiled("base", HARDWARE, "v5e:4x4", bindings, run=FORMS[form])),
    )
    share = 16 / (WINDOWS * number)  # per chip and step → per example
    return {
        "set": name,
        "passes": form,
        "window": list(size),
        "examples_a_window": number,
        "gigaflops": row["flops"] * share / 1e9,
        "hbm_megabytes": row["hbm_bytes_accessed"] * share / 1e6,
        "peak_gigabytes": row["peak_hbm_bytes"] / 1e9,
        "examples_per_second": WINDOWS * number / row["roofline"]["seconds"],
    }


def batch_of(form: str, windows: int, size: tuple[int, int], lengths: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Returns a packed batch of random tokens, and its number of examples."""
    from distill.data.packing import Packer, TokenPair
    from distill.tasks import task_ids

    rng, packer = np.random.default_rng(0), Packer(layout_of(form, windows, size))
    ids = (task_ids.LABEL, task_ids.RATIONALE)
    for taken, (row, group) in enumerate(zip(lengths.tolist(), groups(form, lengths))):
        tasks = [task for task, number in zip(ids, row[1:]) if number]
        pairs = [
            TokenPair(
                rng.integers(2, 32000, inputs).astype(np.int32),
                rng.integers(2, 32000, targets).astype(np.int32),
                np.full(targets, task, np.int32),
                np.ones(targets, np.float32),
            )
            for task, (inputs, targets) in zip(tasks, group)
        ]
        if not packer.add(pairs):
            return packer.emit(), taken
    raise ValueError("not enough rows to fill a batch")


def cpu(name: str, options: argparse.Namespace, lengths: np.ndarray) -> dict[str, Any]:
    """Returns examples per second of both forms on one core, T5 1.1 Small's dims; their steps alternate."""
    import jax

    from distill.model.network import T5Config
    from distill.model.parameters import init_params
    from distill.training import optimizers
    from distill.training.losses import TwoTaskLoss
    from distill.training.state import init_state
    from distill.training.step import make_train_step

    config = T5Config(32128, 512, 6, 64, 1024, 8, 8, dropout_rate=0.1, scan_layers=True)
    optimizer = optimizers.adafactor(1e-3)
    step = jax.jit(make_train_step(config, TwoTaskLoss(), optimizer, chunk_tokens=512), donate_argnums=0)
    states, batches, numbers = {}, {}, {}
    for form in FORMS:
        size, _ = windows_of(form, lengths, config)
        batches[form], numbers[form] = batch_of(form, options.windows, size, lengths)
        states[form] = jax.jit(lambda key: init_state(init_params(config, key), optimizer))(jax.random.key(0))

    def run(form: str) -> None:
        states[form], metrics = step(states[form], batches[form], jax.random.key(1))
        jax.block_until_ready((states[form], metrics))

    for form in FORMS:
        run(form)  # compiles
    times = sides.in_turn({form: functools.partial(run, form) for form in FORMS}, options.pairs)
    speeds = {form: [numbers[form] / one.seconds for one in times[form]] for form in FORMS}
    ratios = sorted(one / two for one, two in zip(speeds["one"], speeds["two"]))
    return {
        "set": name,
        **{f"{form}_examples_per_second": statistics.median(speeds[form]) for form in FORMS},
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def main() -> None:
    """Runs the parts and prints a table per part."""
    options = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    parts, sets = options.parts.split(","), options.sets.split(",")
    if "cpu" in parts:
        sides.use_threads(1)
    lengths = {name: lengths_of(name, options) for name in sets}
    print("| set | examples | input | label | rationale |\n|---|---|---|---|---|")
    for name, rows in lengths.items():
        print(f"| {name} | {len(rows):,} | " + " | ".join(f"{mean:.1f}" for mean in rows.mean(0)) + " |")
    counted: dict[str, dict[str, dict[str, Any]]] = {}
    if "tpu" in parts:
        counted = {name: {form: tpu(name, form, options, lengths[name]) for form in FORMS} for name in sets}
        report_tpu(counted)
    timed = [cpu(name, options, lengths[name]) for name in sets] if "cpu" in parts else []
    if timed:
        print("\n| set | two passes, examples/s | one pass, examples/s | ratio (each pair) |\n|---|---|---|---|")
    for row in timed:
        two, one = row["two_examples_per_second"], row["one_examples_per_second"]
        print(f"| {row['set']} | {two:.1f} | {one:.1f} | {row['ratio']:.2f}× ({', '.join(map(str, row['ratios']))}) |")
    if options.plot:
        plot(counted, timed, Path(options.plot))


def report_tpu(counted: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Prints a Markdown table."""
    titles = ("set", "passes", "window", "examples a window", "GFLOP", "HBM MB", "peak GB", "examples/s at most")
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for forms in counted.values():
        for form, row in forms.items():

            def cell(key: str, digits: int, row=row, ratio=form == "one", two=forms["two"]) -> str:
                return f"{row[key]:,.{digits}f}" + (f" ({row[key] / two[key]:.2f}×)" if ratio else "")

            print(
                f"| {row['set']} | {form} | {' + '.join(map(str, row['window']))} | {row['examples_a_window']:.2f} "
                f"| {cell('gigaflops', 1)} | {cell('hbm_megabytes', 1)} | {row['peak_gigabytes']:.2f} "
                f"| {cell('examples_per_second', 0)} |"
            )


def plot(counted: dict[str, dict[str, dict[str, Any]]], timed: list[dict[str, Any]], path: Path) -> None:
    """Draws what one pass needs and does, relative to two."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.8))
    series = {
        title: {name: forms["one"][key] / forms["two"][key] for name, forms in counted.items()}
        for key, title in (
            ("gigaflops", "operations, TPU compiler"),
            ("hbm_megabytes", "HBM traffic, TPU compiler"),
            ("examples_per_second", "examples/s bound, v5e"),
        )
    }
    series["examples/s, one CPU core"] = {row["set"]: row["ratio"] for row in timed}
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    width = 0.8 / len(series)
    for number, (title, values) in enumerate(series.items()):
        places = [names.index(name) + (number - (len(series) - 1) / 2) * width for name in values]
        axis.bar(places, list(values.values()), width * 0.9, label=title)
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("one pass ÷ two passes, per example")
    axis.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
