"""Times the published PyTorch step on the same rows: transformers' T5 in bfloat16 autocast.

``published`` does what the paper's code does: per batch a forward pass of the label task and one of the rationale task,
each padded to its longest row, and one backward pass of 0.5 · label + 0.5 · rationale. ``joined`` is the strongest form
without packing: rows of similar length in a batch, and both tasks in one forward pass. ``compiled`` is ``published``
under ``torch.compile``. All use AdamW's fused kernel and clip gradients at norm 1. Run by
:mod:`benchmarks.accelerator.measure`.
"""

import dataclasses
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import sides
from benchmarks.accelerator import cases, timing

_STARTED = time.perf_counter()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclasses.dataclass(frozen=True)
class Case:
    """One training step: a size, a set, rows per batch, and its form."""

    size: str
    name: str
    rows: int
    form: str

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.size} {self.name} {self.rows} {self.form}"


@functools.cache
def model_and_optimizer(size: str) -> tuple[Any, Any]:
    """transformers' T5 with random parameters, in training mode, and its optimizer."""
    shape = cases.SIZES[size]
    config = transformers.T5Config(
        vocab_size=shape.vocab_size, d_model=shape.embed_dim, d_kv=shape.head_dim, d_ff=shape.mlp_dim,
        num_layers=shape.num_encoder_layers, num_decoder_layers=shape.num_decoder_layers, num_heads=shape.num_heads,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, dropout_rate=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = transformers.T5ForConditionalGeneration(config).train()
    return model, torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=DEVICE == "cuda")


@functools.cache
def compiled_model(size: str) -> Any:
    """The same model under ``torch.compile``, for batches of any length."""
    return torch.compile(model_and_optimizer(size)[0], dynamic=True)


def groups_of(rows: list[cases.Row], case: Case) -> list[list[cases.Row]]:
    """Four batches of rows in a random order; of ``joined`` the rows of a batch have similar lengths."""
    order = np.random.default_rng(0).permutation(len(rows))
    chosen = [rows[index] for index in itertools.islice(itertools.cycle(order), 4 * case.rows)]
    if case.form == "joined":
        chosen.sort(key=lambda row: row.tokens)
    return [chosen[start : start + case.rows] for start in range(0, len(chosen), case.rows)]


def step_of(case: Case) -> Callable[[list[cases.Row]], Any]:
    """Returns a function that makes one update on a batch of rows and returns the loss."""
    model, optimizer = model_and_optimizer(case.size)
    called = compiled_model(case.size) if case.form == "compiled" else model

    def forward(inputs: list[np.ndarray], targets: list[np.ndarray]) -> Any:
        ids = torch.from_numpy(sides.padded(inputs, 0, "int64")).to(DEVICE, non_blocking=True)
        labels = torch.from_numpy(sides.padded(targets, -100, "int64")).to(DEVICE, non_blocking=True)
        return called(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels), labels

    def loss_of(rows: list[cases.Row]) -> Any:
        columns = list(zip(*rows, strict=True))
        if case.form != "joined":
            label, rationale = (forward(*columns[start : start + 2])[0].loss for start in (0, 2))
            return 0.5 * label + 0.5 * rationale
        output, labels = forward([*columns[0], *columns[2]], [*columns[1], *columns[3]])
        halves = zip(output.logits.chunk(2), labels.chunk(2), strict=True)
        parts = [
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
            for logits, target in halves
        ]
        return 0.5 * parts[0] + 0.5 * parts[1]

    def step(rows: list[cases.Row]) -> Any:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = loss_of(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def wait(_: Any = None) -> None:
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def positions_flops(case: Case, batch: list[cases.Row]) -> float:
    """Operations of a step on ``batch`` as this form pads it."""
    columns = list(zip(*batch, strict=True))
    longest = [max(map(len, column)) for column in columns]
    config = cases.SIZES[case.size]
    if case.form == "joined":
        return cases.step_flops(config, 2 * len(batch), max(longest[0], longest[2]), max(longest[1], longest[3]))
    return sum(cases.step_flops(config, len(batch), *longest[start : start + 2]) for start in (0, 2))


def measured(case: Case, batches: list[list[cases.Row]], peak: float | None, rounds: int) -> dict[str, Any]:
    """Times a case after one pass over its batches; a round is one pass."""
    step, turn = step_of(case), itertools.cycle(batches)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timing.rounds(lambda: step(next(turn)), wait, rounds, len(batches))
    median = statistics.median(seconds)
    flops = sum(positions_flops(case, batch) for batch in batches) / len(batches)
    tokens = sum(row.tokens for batch in batches for row in batch) / len(batches)
    return {
        "milliseconds": timing.summary(seconds),
        "examples_per_second": round(case.rows / median, 1),
        "tokens_per_second": round(tokens / median),
        "tflops": round(flops / median / 1e12, 1),
        "mfu": None if peak is None else round(flops / median / peak, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if DEVICE == "cuda" else None,
    }


def run(cases_: list[Case], data: Path, out: Path, name: str, peak: float | None, rounds: int) -> list[dict[str, Any]]:
    """Warms up and times one case after the other; a case that fails has its error as its result."""
    results: list[dict[str, Any]] = []
    for case in cases_:
        row: dict[str, Any] = {"label": case.label, **dataclasses.asdict(case)}
        batches, started = groups_of(cases.read_rows(data / "rows.npz", case.name), case), time.perf_counter()
        try:
            step = step_of(case)
            for number, batch in enumerate(batches):
                step(batch)
                wait()
                if number == 0 and not results:
                    row["process_to_first_step_seconds"] = round(time.perf_counter() - _STARTED, 1)
            row["warm_up_seconds"] = round(time.perf_counter() - started, 1)
            row |= measured(case, batches, peak, rounds)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:600]
        results.append(row)
        print(json.dumps(row), flush=True)
        (out / f"theirs_{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def groups(size: str | None = None) -> dict[str, list[Case]]:
    """The measured cases. Each group runs as a separate process; ``torch.compile`` has a group for itself.

    The largest batches need 45 to 65 GiB: 256 rows of Base and 160 of Large exceeded the 80 of an H100.
    """
    if size is not None:
        return {size: [Case(size, "svamp", 4, "published"), Case(size, "cqa", 4, "joined")]}
    both = ("svamp", "cqa")
    return {
        "base": [
            *(Case("base", name, rows, "published") for name in both for rows in (64, 128)),
            *(Case("base", name, 128, "joined") for name in both),
        ],
        "large": [Case("large", name, 48, form) for name in both for form in ("published", "joined")],
        "compiled": [Case("base", "svamp", 64, "compiled")],
    }


def main() -> None:
    parser = cases.parser(__doc__, groups())
    parser.add_argument("--peak", type=float, help="peak of the device, operations per second")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chosen = groups(options.size)
    rows: list[dict[str, Any]] = []
    for name in [options.group] if options.group else list(chosen):
        rows += run(chosen[name], options.data, options.out, name, options.peak, options.rounds)
    raise SystemExit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
