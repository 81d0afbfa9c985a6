"""Times decoding of labels and rationales: the project's decoder, or transformers' ``generate``, in bfloat16.

The student never generates EOS, so every row has all its tokens on both sides. ``ours`` first exports its parameters;
``theirs`` loads that folder, and checks in float32 that its tokens are those of ours. Run by
:mod:`benchmarks.accelerator.measure`, one process per side, so that each has the device's memory for itself.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sides
from benchmarks.accelerator import cases, timing

# Name, new tokens per row, rows per batch, batches per call. Labels of SVAMP have about 10 tokens, of CommonsenseQA 3.
CASES = (
    ("label of 10 tokens", 10, 64, 8),
    ("label of 3 tokens", 3, 64, 8),
    ("label of 10 tokens", 10, 512, 2),
    ("rationale of 64 tokens", 64, 64, 2),
)
_CHECKED_ROWS = 64
TOKENS = "student_tokens.json"  # written by ours, after the exported student
# A row whose two best logits differ by rounding alone may continue differently.
_EQUAL_ROWS = 0.95


def inputs(rows: int) -> list[np.ndarray]:
    """Rows of random tokens with CommonsenseQA's lengths."""
    return sides.input_rows(rows, 56, 32000)


def timed(
    decode: Callable[[int, int, list[np.ndarray]], Any], side: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Times ``decode(tokens, batch, rows)`` for every chosen case."""
    results: list[dict[str, Any]] = []
    chosen = range(len(CASES)) if options.cases is None else map(int, options.cases.split(","))
    for name, tokens, batch, batches in (CASES[number] for number in chosen):
        size = max(1, batch // options.scale)
        call = functools.partial(decode, tokens, size, inputs(size * batches))
        started = time.perf_counter()
        call()
        first = time.perf_counter() - started
        seconds = timing.rounds(call, lambda _: None, options.rounds, 1)
        median, rows = statistics.median(seconds), size * batches
        row = {
            "case": name,
            "side": side,
            "batch": size,
            "rows": rows,
            "milliseconds": timing.summary(seconds),
            "rows_per_second": round(rows / median, 1),
            "tokens_per_second": round(rows * tokens / median),
            "first_call_seconds": round(first, 1),
        }
        results.append(row)
        print(json.dumps(row), flush=True)
    return results


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Exports random parameters, decodes in float32 for the check, and times bfloat16."""
    import jax
    from flax import linen as nn

    from distill.checkpoints import huggingface
    from distill.inference.decoder import DecodeConfig, Decoder
    from distill.model import parameters
    from distill.sharding import partitioning

    config = dataclasses.replace(cases.SIZES[options.size], dropout_rate=0.0)
    fast = dataclasses.replace(config, dtype="bfloat16")
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    decoders: dict[Any, Any] = {}

    def decoded(
        params: Any, where: jax.Device, config: cases.T5Config, tokens: int, batch: int, rows: list[np.ndarray]
    ) -> list[list[int]]:
        key, mesh = (where, config.dtype, tokens, batch), partitioning.MeshConfig().build([where])
        if key not in decoders:
            decoders[key] = Decoder(config, mesh, DecodeConfig(max_decode_len=tokens, batch_size=batch))
        with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
            return [one.tokens.tolist() for one in decoders[key](params, rows)]

    with jax.default_device(cpu):  # the device's peak memory is that of decoding alone
        params = sides.endless_params(config)
        found = decoded(params, cpu, config, 10, _CHECKED_ROWS, inputs(_CHECKED_ROWS))
        huggingface.save_pretrained_folder(params, config, options.out / "student")
        (options.out / TOKENS).write_text(json.dumps(found))
        params = jax.device_get(jax.jit(functools.partial(parameters.in_compute_dtype, config=fast))(params))
    params = jax.device_put(params, device)
    rows = timed(lambda *given: decoded(params, device, fast, *given), "ours", options)
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {"results": rows, "peak_gib": round(peak / 2**30, 2)}


def theirs(options: argparse.Namespace) -> dict[str, Any]:
    """Loads what ``ours`` exported, compares float32 tokens, and times bfloat16."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    if not (options.out / TOKENS).exists():
        raise SystemExit(f"{options.out / TOKENS} is missing: run --side=ours first")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(options.out / "student").eval().to(device)

    def decoded(tokens: int, batch: int, rows: list[np.ndarray]) -> list[list[int]]:
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        result: list[list[int]] = [[] for _ in rows]
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                ids = torch.from_numpy(sides.padded([rows[index] for index in chosen], 0, "int64")).to(device)
                answers = model.generate(
                    ids, attention_mask=(ids != 0).long(), do_sample=False, num_beams=1, max_new_tokens=tokens
                )
                for index, answer in zip(chosen, answers[:, 1:].tolist()):
                    result[index] = answer
        return result

    found = decoded(10, _CHECKED_ROWS, inputs(_CHECKED_ROWS))
    reference = json.loads((options.out / TOKENS).read_text())
    equal = sum(a == b for a, b in zip(found, reference, strict=True)) / len(reference)
    model = model.to(torch.bfloat16)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rows = timed(decoded, "theirs", options)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    result = {"results": rows, "peak_gib": round(peak, 2), "rows_equal_to_ours_in_float32": equal}
    if equal < _EQUAL_ROWS:
        result["error"] = f"{equal:.0%} of the rows have the same tokens on both sides; expected {_EQUAL_ROWS:.0%}"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--side", required=True, choices=["ours", "theirs"])
    parser.add_argument("--size", default="base", choices=cases.SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", help="comma-separated indices into CASES; by default all")
    parser.add_argument("--scale", type=int, default=1, help="divide all batches by this number")
    options = parser.parse_args()
    result = (ours if options.side == "ours" else theirs)(options)
    (options.out / f"decoding_{options.side}.json").write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit("error" in result)


if __name__ == "__main__":
    main()
