"""CommonsenseQA rows per second that one host core delivers, packed: from our cache, from memory, and through SeqIO.

All sides make packed batches of the label and the rationale task with the same windows, alternately, in one process
bound to one core. A row counts once: both of its sequences are delivered.

  cache        random access to the ArrayRecord shards of `distill cache`
  memory       the same batches without a cache: read once through SeqIO, then held in memory
  seqio        seqio.get_dataset on a mixture of both tasks with EncDecFeatureConverter(pack=True), tokenising
               each row when it is read
  seqio_cache  the same from tokens in TFRecords (seqio.TFExampleDataSource), as SeqIO reads its own cached tasks

    python -m benchmarks.input_pipeline --data_dir=DIR --vocabulary=t5.model [--windows=64] [--seconds=4] [--rounds=3]
    python -m benchmarks.input_pipeline                 made-up rows of CommonsenseQA's lengths, no files needed
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder with cqa/ in the paper's layout; without it, rows are made up")
    parser.add_argument("--vocabulary", default="t5", help="with --data_dir: t5, bytes or a SentencePiece model")
    parser.add_argument("--rows", type=int, default=8789, help="made-up rows")
    parser.add_argument("--windows", type=int, default=64, help="windows per batch")
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--targets", type=int, default=179)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timing")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each side")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def made_up(path: str, number: int) -> None:
    """Writes rows whose lengths in bytes are those of CommonsenseQA's rows in T5 tokens (means 50, 3 and 31)."""
    import numpy as np

    rng = np.random.default_rng(0)

    def text(mean: float, spread: float) -> str:
        length = max(1, round(rng.lognormal(np.log(mean), spread)))
        return "".join(chr(97 + letter) for letter in rng.integers(0, 26, length))

    with open(path, "w", encoding="utf-8") as file:
        for _ in range(number):
            row = {"input": text(36, 0.25), "label": text(2, 0.4), "rationale": text(28, 0.35)}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    options = arguments()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})  # before TensorFlow counts the cores
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    import numpy as np
    import seqio
    import tensorflow as tf

    from distill.data import cache
    from distill.data.batches import BatchStream
    from distill.data.packing import Layout
    from distill.tasks import cqa, jsonl, registration, vocabularies

    folder = tempfile.TemporaryDirectory(prefix="input-pipeline-")
    if options.data_dir:
        dataset, vocabulary = cqa.dataset(options.data_dir), vocabularies.load(options.vocabulary)
    else:
        rows_file = os.path.join(folder.name, "train.jsonl")
        made_up(rows_file, options.rows)
        dataset = jsonl.dataset({"train": rows_file}, name="made_up", validation_fraction=0.0)
        vocabulary = vocabularies.load("bytes")
    names = registration.register(dataset, vocabulary)
    layout = Layout(options.windows, options.inputs, options.targets)

    started = time.perf_counter()
    cache_dir = os.path.join(folder.name, "cache")
    built = cache.build([names.paired], cache_dir, shards=options.shards)
    build_seconds = time.perf_counter() - started

    # SeqIO's side: a plain mixture with the features that SeqIO's converter supports.
    seqio.MixtureRegistry.add("plain", [(names.label, 1.0), (names.rationale, 1.0)])
    features = {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
    for name in (names.label, names.rationale):
        path = os.path.join(folder.name, f"{name}.tfrecord")
        examples = registration.get(name).get_dataset(None, split="train", shuffle=False, trim_output_features=False)
        with tf.io.TFRecordWriter(path) as writer:
            for example in examples.as_numpy_iterator():
                tokens = {key: tf.train.Feature(int64_list=tf.train.Int64List(value=example[key])) for key in features}
                writer.write(tf.train.Example(features=tf.train.Features(feature=tokens)).SerializeToString())
        kind = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
        source = seqio.TFExampleDataSource({"train": path}, dict.fromkeys(features, kind))
        seqio.TaskRegistry.add(
            f"{name}_tokens",
            source=source,
            preprocessors=[
                seqio.map_over_dataset(lambda row: {key: tf.cast(value, tf.int32) for key, value in row.items()})
            ],
            output_features=features,
            metric_fns=[],
        )
    seqio.MixtureRegistry.add("tokens", [(f"{names.label}_tokens", 1.0), (f"{names.rationale}_tokens", 1.0)])

    def ours(**where) -> Iterator[int]:
        for batch in BatchStream(names.paired, layout, seed=0, **where):
            yield batch.examples

    def theirs(name: str) -> Iterator[float]:
        dataset = seqio.get_dataset(
            name,
            {"inputs": options.inputs, "targets": options.targets},
            dataset_split="train",
            shuffle=True,
            num_epochs=None,
            feature_converter=seqio.EncDecFeatureConverter(pack=True),
            seed=0,
        )
        for batch in dataset.batch(options.windows, drop_remainder=True).prefetch(2).as_numpy_iterator():
            yield float(batch["encoder_segment_ids"].max(axis=1).sum()) / 2

    sides: dict[str, Iterator[float]] = {
        "cache": ours(cache_dir=cache_dir),
        "memory": ours(),
        "seqio": theirs("plain"),
        "seqio_cache": theirs("tokens"),
    }

    def timed(stream: Iterator[float]) -> dict[str, float]:
        rows, started, used = 0.0, time.perf_counter(), time.process_time()
        while (seconds := time.perf_counter() - started) < options.seconds:
            rows += next(stream)
        return {"rows_per_second": rows / seconds, "rows_per_cpu_second": rows / (time.process_time() - used)}

    for stream in sides.values():
        for _ in range(3):
            next(stream)  # warm-up: reading, tracing, filling buffers
    rounds = [{name: timed(stream) for name, stream in sides.items()} for _ in range(options.rounds)]

    result = {
        "rows": built.manifest["tasks"][names.paired]["train"]["examples"],
        "data": "cqa" if options.data_dir else "made up",
        "layout": [options.windows, options.inputs, options.targets],
        "build_seconds": round(build_seconds, 1),
        "mean_tokens": np.load(os.path.join(cache_dir, "index", f"{names.paired}-train.npy"))[..., :2].mean(0).tolist(),
        "seqio_version": __import__("importlib.metadata").metadata.version("seqio"),
    }
    median: Callable[[str, str], float] = lambda side, key: statistics.median(found[side][key] for found in rounds)  # noqa: E731
    for side in sides:
        result[side] = {key: round(median(side, key)) for key in ("rows_per_second", "rows_per_cpu_second")}
        ratios = sorted(found["cache"]["rows_per_second"] / found[side]["rows_per_second"] for found in rounds)
        result[side]["cache_is_times"] = round(statistics.median(ratios), 2)
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['rows']:,} rows ({result['data']}), {options.windows} windows of {options.inputs} + {options.targets} "
        f"tokens, one core; medians of {options.rounds} × {options.seconds:g} s each, in turn"
    )
    for side in sides:
        found = result[side]
        print(
            f"  {side:12} {found['rows_per_second']:9,} rows/s   {found['rows_per_cpu_second']:9,} rows per CPU second"
            f"   cache ÷ this {found['cache_is_times']:7.2f}"
        )


if __name__ == "__main__":
    main()
