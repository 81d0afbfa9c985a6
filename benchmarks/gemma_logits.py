"""Logits of every shipped T5Gemma and T5Gemma 2 against those of `transformers`, at the shipped shapes, in float32.

Each model file gives the widths, heads, windows, soft caps and positions. The network has one period of local and global
layers per stack (T5Gemma: 2 layers, T5Gemma 2: 6), 1,024 rows in its token tables and random weights. They are exported,
and `transformers` reads the folder. The second row of inputs is padded. Inputs and targets of T5Gemma 2 are longer than
its window; T5Gemma's window has 4,096 tokens: give `--length=4200` for a small one.

    python -m benchmarks.gemma_logits [--models=t5gemma_s,t5gemma2_270m] [--length=N]
"""

import argparse
import dataclasses
import tempfile
from typing import Any

from benchmarks import sides

SIZES = ("s", "b", "l", "ml", "xl", "2b_2b", "9b_2b", "9b_9b")
MODELS = (*(f"t5gemma_{size}" for size in SIZES), "t5gemma2_270m", "t5gemma2_1b", "t5gemma2_4b")
VOCAB = 1024


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="names of files in gin/models")
    parser.add_argument("--length", type=int, help="tokens per row; default: 64, T5Gemma 2: its window and 88 more")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def shortened(name: str) -> Any:
    """Returns the configuration of a model file with one period of layers and a small vocabulary."""
    import distill

    files = [f"gin/{file}.gin" for file in (f"models/{name}", "tasks/svamp", "runs/distill", "hardware/cpu")]
    given = {"DATA_DIR": "data", "MODEL_DIR": "runs/x", "VOCABULARY_PATH": "bytes"}
    config = distill.from_gin(files, given).arguments["model"]
    stacks = {
        stack: dataclasses.replace(getattr(config, stack), num_layers=config.encoder.global_every)
        for stack in ("encoder", "decoder")
    }
    return dataclasses.replace(config, vocab_size=VOCAB, **stacks)


def compare(name: str, length: int | None) -> None:
    """Prints the largest difference of the two programs' logits."""
    import jax
    import numpy as np
    import torch
    import transformers

    from distill.checkpoints import huggingface
    from distill.model.network import ModelInputs
    from distill.model.networks import network_of
    from distill.model.parameters import param_shapes

    config = shortened(name)
    length = length or (64 if config.version == 1 else config.encoder.sliding_window + 88)
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        scale = {"scale": 0.3, "kernel": leaf.shape[0] ** -0.5, "embedding": 0.5 * leaf.shape[-1] ** -0.5}
        return jax.device_put(rng.standard_normal(leaf.shape, np.float32) * np.float32(scale[path[-1].key]))

    params = jax.tree_util.tree_map_with_path(draw, param_shapes(config))
    tokens = rng.integers(3, VOCAB, (2, length)).astype(np.int32)
    shifted = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    tokens[1, -length // 3 :] = 0
    got = np.asarray(jax.jit(network_of(config).apply)({"params": params}, ModelInputs(tokens, shifted)))
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_pretrained_folder(params, config, folder, max_shard_bytes=500_000_000)
        del params
        theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = theirs(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(tokens != 0).long(),
            decoder_input_ids=torch.from_numpy(np.where(shifted == 0, config.decoder_start_id, shifted)).long(),
            use_cache=False,
        ).logits.numpy()
    print(
        f"{name:16} {length:5} tokens  largest difference {np.abs(got - wanted).max():.1e}, standard deviation "
        f"{wanted.std():.2f}",
        flush=True,
    )


def main() -> None:
    options = arguments()
    sides.use_threads(options.threads)

    import torch
    import transformers

    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in options.models.split(","):
        compare(name, options.length)


if __name__ == "__main__":
    main()
