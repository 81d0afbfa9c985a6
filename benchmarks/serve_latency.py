"""A student's label latency and throughput here, in transformers and in CTranslate2, on the same CPU, in one run.

The student has random parameters (T5 1.1 Small's dims by default) that never generate EOS, so all sides decode the same
number of tokens. It is exported by ``distill.inference.export``. All sides get the same token ids and decode greedily,
and their answers are compared before anything is timed. The sides alternate; medians are reported.

    python -m benchmarks.serve_latency [--threads=1] [--batch_size=8] [--inputs=64] [--targets=8] [--rounds=5]
        [--layers=8]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import sides


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=32128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--mlp", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=64, help="tokens per input")
    parser.add_argument("--targets", type=int, default=8, help="tokens per answer")
    parser.add_argument(
        "--batch_size", type=int, default=8, help="rows per batch for throughput; latency is of one row"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    sides.use_threads(options.threads)

    import ctranslate2
    import jax
    import numpy as np
    import transformers

    from distill.checkpoints import conversion
    from distill.checkpoints.weights import flatten
    from distill.inference import export
    from distill.inference.evaluate import DecodeConfig
    from distill.model import decoding
    from distill.model.network import T5Config
    from distill.model.parameters import param_count
    from distill.tasks import vocabularies

    config = T5Config(options.vocab, options.width, options.heads, 64, options.mlp, options.layers, options.layers)
    rng = np.random.default_rng(0)
    params = sides.endless_params(config)

    with tempfile.TemporaryDirectory() as scratch:
        leaves = flatten(params)
        conversion.write_model_dir(leaves.__getitem__, config, Path(scratch) / "run")
        folders = {}
        for name, quantization in (("hf", None), ("ct2", None), ("ct2_int8", "int8")):
            folders[name] = export.export(
                f"{scratch}/run",
                f"{scratch}/{name}",
                name[:3].rstrip("_"),
                vocabulary=vocabularies.load("bytes"),
                decode=DecodeConfig(max_decode_len=options.targets),
                quantization=quantization,
            )
        model = sides.load_transformers(folders["hf"], options.threads)
        translators = {
            name: ctranslate2.Translator(str(folders[name]), intra_threads=options.threads, inter_threads=1)
            for name in ("ct2", "ct2_int8")
        }
        # Ids beyond the bytes have no text; in CTranslate2 they are extra_id tokens after the tokenizer's own tokens.
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders["ct2"])
    tokens = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    tokens += [f"<extra_id_{i}>" for i in range(config.vocab_size - len(tokens))]
    device_params = jax.device_put(params)
    generate = jax.jit(
        lambda p, ids: decoding.generate(config, p, ids, max_decode_len=options.targets, method="greedy").tokens
    )

    def ours(ids: np.ndarray) -> list[list[int]]:
        return np.asarray(generate(device_params, ids)).tolist()

    def theirs(ids: np.ndarray) -> list[list[int]]:
        return sides.transformers_generate(model, ids, max_new_tokens=options.targets, num_beams=1).tolist()

    def translated(name: str) -> Callable[[np.ndarray], list]:
        def run(ids: np.ndarray) -> list:
            rows = [[tokens[i] for i in row] for row in ids.tolist()]
            results = translators[name].translate_batch(rows, beam_size=1, max_decoding_length=options.targets)
            return [result.hypotheses[0] for result in results]

        return run

    programs = {
        "here": ours, "transformers": theirs, "CTranslate2": translated("ct2"), "CTranslate2 int8": translated("ct2_int8")
    }  # fmt: skip

    def inputs(rows: int) -> np.ndarray:
        ids = rng.integers(3, 259, (rows, options.inputs), dtype=np.int32)
        ids[:, -1] = 1
        return ids

    check = inputs(options.batch_size)
    first = ours(check)
    agree = {
        "transformers": sum(a == b for a, b in zip(first, theirs(check))),
        "CTranslate2": sum([tokens[i] for i in a] == b for a, b in zip(first, programs["CTranslate2"](check))),
        "CTranslate2 int8": sum(
            [tokens[i] for i in a] == b for a, b in zip(first, programs["CTranslate2 int8"](check))
        ),
    }
    print(f"{param_count(config):,} parameters, {options.inputs} input and {options.targets} target tokens, "
          f"{options.threads} thread(s)")  # fmt: skip
    print("answers equal to ours: " + ", ".join(f"{n} {count}/{len(first)}" for n, count in agree.items()))

    for what, rows in (("latency of one row", 1), (f"batch of {options.batch_size}", options.batch_size)):
        batch = inputs(rows)
        times: dict[str, list[float]] = {name: [] for name in programs}
        for side in programs.values():
            side(batch)  # compiles and warms up
        for _ in range(options.rounds):
            for name, side in programs.items():
                start = time.perf_counter()
                side(batch)
                times[name].append(time.perf_counter() - start)
        base = statistics.median(times["here"])
        print(f"{what}:")
        for name, seconds in times.items():
            median = statistics.median(seconds)
            print(
                f"  {name:18} {1e3 * median:9.1f} ms {rows / median:9.1f} rows/s   here / this {base / median:6.2f}"
                f"   (from {1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f} ms)"
            )


if __name__ == "__main__":
    main()
