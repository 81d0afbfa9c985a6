"""Our training step against the paper's PyTorch step, on real CommonsenseQA or SVAMP rows, in one process.

The other side does what the published code does: `transformers`' T5, two forward passes (label, rationale) with dynamic
padding, α · label + (1 - α) · rationale, AdamW. Our side is the packed, fixed-shape step of `distill train` at the same
dims and precision, with the window lengths of gin/tasks and the batch of gin/hardware/cpu.gin. With
`--family=t5gemma2`, both sides have a T5Gemma 2 of the same random weights: logits for a row are compared first. The
steps of the two sides alternate. Rates count rows of the data (both tasks of each) per second, and per second of
processor time, which other processes on the machine affect less.

    python -m benchmarks.train_step --data_dir=DIR --set=svamp --vocabulary=t5.model [--family=t5gemma2] [--rows=16]
    [--pairs=3] [--threads=1]
"""

import argparse
import ast
import importlib
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import sides

VOCAB, HEADS, DROPOUT = 32128, 6, 0.1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--set", default="svamp", choices=["svamp", "cqa"])
    parser.add_argument("--family", default="t5", choices=sorted(STUDENTS))
    parser.add_argument("--vocabulary", default="t5", help="t5, bytes or the path of a SentencePiece model")
    parser.add_argument("--rows", type=int, default=16, help="rows of the data per PyTorch batch")
    parser.add_argument("--windows", type=int, default=8, help="windows per batch on our side")
    parser.add_argument("--inputs", type=int, help="encoder tokens per window; default: the data set's in gin/tasks")
    parser.add_argument("--targets", type=int, help="decoder tokens per window; default: the data set's in gin/tasks")
    parser.add_argument("--pairs", type=int, default=3, help="timed steps of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--layers", type=int, default=8,
        help="8 with the other dims is T5 1.1 Small, 77M parameters; a T5Gemma 2 of 52M parameters",
    )  # fmt: skip
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--chunk_tokens", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def shipped_lengths(name: str) -> dict[str, int]:
    """Returns ``TASK_FEATURE_LENGTHS`` of a data set's gin file."""
    text = (Path(__file__).parents[1] / "gin" / "tasks" / f"{name}.gin").read_text(encoding="utf-8")
    lengths = re.search(r"^TASK_FEATURE_LENGTHS = (.*)$", text, re.MULTILINE)
    if lengths is None:
        raise ValueError(f"gin/tasks/{name}.gin sets no TASK_FEATURE_LENGTHS on a line of its own")
    return ast.literal_eval(lengths[1])


def t5_students(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Returns a T5 1.1 of transformers, our configuration of the same dims, and our random parameters."""
    import jax
    import torch
    import transformers

    from distill.model.network import T5Config
    from distill.model.parameters import init_params

    layers, width = options.layers, options.width
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=width, d_kv=64, d_ff=2 * width, num_layers=layers, num_decoder_layers=layers,
        num_heads=HEADS, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = T5Config(
        vocab_size=VOCAB, embed_dim=width, num_heads=HEADS, head_dim=64, mlp_dim=2 * width,
        num_encoder_layers=layers, num_decoder_layers=layers, dropout_rate=DROPOUT,
    )  # fmt: skip
    params = jax.jit(init_params, static_argnums=0)(ours, jax.random.key(0))
    return transformers.T5ForConditionalGeneration(config), ours, params


def t5gemma2_students(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Returns a T5Gemma 2 of transformers, our configuration, and our parameters, which both have.

    Raises:
      AssertionError: the two compute different logits.
    """
    import jax
    import numpy as np
    import torch
    import transformers

    from distill.checkpoints import huggingface
    from distill.model.network import ModelInputs
    from distill.model.networks import network_of
    from distill.model.parameters import init_params
    from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

    # One key head for four query heads, a window of 512 tokens and a global layer in six: as the 270M model.
    stack = StackConfig(options.layers, options.width, 2 * options.width, 4, 1, 128, 128.0, 512, 6)
    ours = T5GemmaConfig(2, VOCAB, stack, stack, rope_base_global=1e6, rope_scale_global=8.0)
    params = jax.jit(init_params, static_argnums=0)(ours, jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_pretrained_folder(params, ours, folder)
        theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokens = np.random.default_rng(0).integers(3, VOCAB, (1, 40)).astype(np.int32)
    tokens[:, 0] = ours.decoder_start_id
    got = jax.jit(network_of(ours).apply)({"params": params}, ModelInputs(tokens, tokens))
    with torch.no_grad():
        ids = torch.from_numpy(tokens).long()
        wanted = theirs(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits.numpy()
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=0.0, atol=1e-3)
    return theirs, ours, params


STUDENTS = {"t5": t5_students, "t5gemma2": t5gemma2_students}


def main() -> None:
    options = arguments()
    sides.use_threads(options.threads)

    import jax
    import numpy as np
    import torch
    import transformers

    from distill.data.batches import BatchStream
    from distill.data.packing import Layout
    from distill.tasks import registration, vocabularies
    from distill.training import optimizers
    from distill.training.losses import TwoTaskLoss
    from distill.training.state import init_state
    from distill.training.step import make_train_step

    torch.set_num_threads(options.threads)
    dataset = importlib.import_module(f"distill.tasks.{options.set}").dataset(options.data_dir)
    names = registration.register(dataset, vocabularies.load(options.vocabulary))

    # The paper's side.
    theirs, ours, params = STUDENTS[options.family](options)
    theirs.train()
    adamw = torch.optim.AdamW(theirs.parameters(), lr=5e-5, weight_decay=0.0)
    examples = list(
        registration.get(names.paired)
        .get_dataset(None, split="train", shuffle=False, trim_output_features=False)
        .as_numpy_iterator()
    )
    order = np.random.default_rng(0).permutation(len(examples))

    def padded(rows, fill):
        return torch.from_numpy(sides.padded(rows, fill, "int64"))

    def torch_step(step: int) -> tuple[int, int]:
        rows = [examples[i] for i in order[step * options.rows : (step + 1) * options.rows]]
        tokens, losses = 0, []
        for inputs, targets in (("inputs", "targets"), ("rationale_inputs", "rationale_targets")):
            # A row whose reply could not be parsed has an empty rationale; the paper's code trains on it as an empty
            # target.
            ids = [row[inputs] if len(row[inputs]) else row["inputs"] for row in rows]
            labels = [row[targets] if len(row[targets]) else np.array([1]) for row in rows]
            tokens += sum(map(len, ids)) + sum(map(len, labels))
            batch = padded(ids, 0)
            losses.append(theirs(input_ids=batch, attention_mask=(batch != 0).long(), labels=padded(labels, -100)).loss)
        (0.5 * losses[0] + 0.5 * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return len(rows), tokens

    # Ours.
    optimizer = optimizers.adamw(5e-5)
    lengths = shipped_lengths(options.set)
    layout = Layout(options.windows, options.inputs or lengths["inputs"], options.targets or lengths["targets"])
    stream = BatchStream(names.paired, layout, seed=0)
    state = jax.jit(lambda params: init_state(params, optimizer), donate_argnums=0)(params)
    step_fn = jax.jit(
        make_train_step(ours, TwoTaskLoss(alpha=0.5), optimizer, chunk_tokens=options.chunk_tokens), donate_argnums=0
    )
    rng = jax.random.key(1)

    def our_step() -> tuple[int, int]:
        nonlocal state
        batch = next(stream)
        state, metrics = step_fn(state, batch.arrays, rng)
        jax.block_until_ready((state, metrics))
        tokens = int(
            (batch.arrays["encoder_input_tokens"] > 0).sum() + (batch.arrays["decoder_target_tokens"] > 0).sum()
        )
        return batch.examples, tokens

    def timed(step) -> dict[str, float]:
        timing = sides.timed(step)
        rows, tokens = timing.result
        return {
            "seconds": timing.seconds,
            "cpu_seconds": timing.cpu_seconds,
            "examples_per_second": rows / timing.seconds,
            "tokens_per_second": tokens / timing.seconds,
            "examples_per_cpu_second": rows / timing.cpu_seconds,
        }

    started = time.perf_counter()
    our_step()
    compile_seconds = time.perf_counter() - started
    torch_step(0)
    pairs = [(timed(our_step), timed(lambda n=n: torch_step(n))) for n in range(1, options.pairs + 1)]
    result = {
        "set": options.set,
        "family": options.family,
        "rows": options.rows,
        "layout": [layout.windows, layout.encoder_length, layout.decoder_length],
        "threads": options.threads,
        "compile_seconds": round(compile_seconds, 1),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    rates = ("examples_per_second", "tokens_per_second", "examples_per_cpu_second")
    for key in ("seconds", "cpu_seconds", *rates):
        result[key] = {
            "ours": round(statistics.median(a[key] for a, _ in pairs), 2),
            "theirs": round(statistics.median(b[key] for _, b in pairs), 2),
        }
        if key in rates:
            ratios = sorted(a[key] / b[key] for a, b in pairs)
            result[key]["ratio"] = round(statistics.median(ratios), 2)
            result[key]["ratios"] = [round(ratio, 2) for ratio in ratios]
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{options.family}, {options.set}, {options.rows} rows, windows {result['layout']}, {options.threads} thread(s); "
        f"medians of {options.pairs} steps each, in turn"
    )
    for key in rates:
        values, ratios = result[key], result[key]["ratios"]
        print(
            f"  {key:24} ours {values['ours']:9.2f}   PyTorch {values['theirs']:9.2f}   ratio {values['ratio']:.2f}× "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
