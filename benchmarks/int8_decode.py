"""Decoding with weights in float32, bfloat16 and int8: bytes by the TPU compiler, without a TPU, and time on this CPU.

Compiles, for one chip, the step that decodes one token of every row (`--program=step`), or a whole batch: encoder, prompt
and the loop over tokens (`--program=batch`). Prints a line of JSON per kind of weights: bytes of the parameters, bytes
that the program reads and writes in HBM (counted by `distill.precompile.costs`), XLA's own count, and its temporaries.

    python -m benchmarks.int8_decode [--model=base] [--rows=8] [--topology=v5e:1x1] [--program=step]

`--program=cpu` decodes random parameters on this machine instead, with float32 and int8 weights in turn, and prints the
shortest processor time of each.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.int8_decode --program=cpu --model=small
"""

import argparse
import dataclasses
import functools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import sides, tpu_step
from distill.inference.decoder import DecodeConfig, Decoder
from distill.model import int8
from distill.model.attention import KeyValue
from distill.model.config import T5Config
from distill.model.networks import decoding_cache_shapes, network_of
from distill.model.parameters import in_compute_dtype, param_shapes
from distill.precompile import costs
from distill.precompile.steps import compile_to_text
from distill.precompile.topology import open_topology, silenced, uncached
from distill.sharding import partitioning

INPUTS, TARGETS = 64, 32
SIZES = {"small": (512, 6, 1024, 8), **tpu_step.SIZES}
WEIGHTS = {"float32": ("float32", "compute"), "bfloat16": ("bfloat16", "compute"), "int8": ("bfloat16", "int8")}


def network(size: str) -> T5Config:
    """T5 1.1 of a size, with the vocabulary of the published checkpoints."""
    embed, heads, mlp, layers = SIZES[size]
    return T5Config(
        vocab_size=32128,
        embed_dim=embed,
        num_heads=heads,
        head_dim=64,
        mlp_dim=mlp,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
    )


def lowered(config: T5Config, weights: str, options: argparse.Namespace, mesh: jax.sharding.Mesh) -> Any:
    """The lowered program, and the shapes of the parameters as `distill infer` keeps them."""
    whole = partitioning.replicated(mesh)

    def placed(shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=whole)

    def kept(params: Any) -> Any:
        return in_compute_dtype(int8.with_int8_weights(params, config) if weights == "int8" else params, config)

    params = jax.tree.map(placed, jax.eval_shape(kept, param_shapes(config)))
    if options.program == "batch":
        decode = DecodeConfig(TARGETS, INPUTS, options.rows, weights=weights)
        return Decoder(config, mesh, decode).lower(params, INPUTS)[0], params

    def step(params: Any, tokens: Any, position: Any, caches: Any, crosses: Any, visible: Any) -> Any:
        apply = network_of(config).apply
        given = (tokens, position, caches, crosses, visible)
        hidden, caches = apply({"params": params}, *given, method="decode_step")
        return jnp.argmax(apply({"params": params}, hidden, method="logits")[:, 0], axis=-1), caches

    def caches(length: int) -> tuple[KeyValue, ...]:
        shapes = decoding_cache_shapes(config, options.rows, length)
        arrays = [jax.ShapeDtypeStruct(shape, config.dtype, sharding=whole) for shape in shapes]
        return tuple(KeyValue(array, array) for array in arrays)

    tokens, position = (jax.ShapeDtypeStruct(shape, jnp.int32, sharding=whole) for shape in ((options.rows,), ()))
    visible = jax.ShapeDtypeStruct((options.rows, INPUTS), bool, sharding=whole)
    program = jax.jit(step, donate_argnums=3)
    return program.lower(params, tokens, position, caches(TARGETS), caches(INPUTS), visible), params


def time_here(config: T5Config, rows: int, rounds: int) -> None:
    """Prints the shortest processor time to decode a batch with each kind of weights, in turn."""
    mesh = partitioning.MeshConfig(-1, 1, 1).build()
    params = sides.endless_params(config)
    kinds = {"float32": params, "int8": jax.jit(functools.partial(int8.with_int8_weights, config=config))(params)}
    inputs = [np.full(INPUTS, 5, np.int32)] * rows
    times: dict[str, list[float]] = {name: [] for name in kinds}
    decoders = {
        name: Decoder(config, mesh, DecodeConfig(TARGETS, INPUTS, rows, weights=WEIGHTS[name][1])) for name in kinds
    }
    for turn in range(rounds + 1):
        for name, given in kinds.items():
            started = time.process_time()
            found = decoders[name](given, inputs)
            if any(len(one.tokens) != TARGETS for one in found):
                raise AssertionError("a row ended early; every row must decode all tokens")
            if turn:  # the first compiles
                times[name].append(time.process_time() - started)
    shortest = {name: round(min(each), 3) for name, each in times.items()}
    print(json.dumps({"cpu_s": shortest, "int8 / float32": round(shortest["int8"] / shortest["float32"], 2)}))


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=tuple(SIZES), default="base")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--program", choices=("step", "batch", "cpu"), default="step")
    parser.add_argument("--rounds", type=int, default=3, help="of --program=cpu")
    parser.add_argument("--weights", choices=tuple(WEIGHTS), action="append", help="only these; may repeat")
    parser.add_argument("--text", help="write the programs' HLO text to files of this prefix")
    options = parser.parse_args()
    if options.program == "cpu":
        return time_here(network(options.model), options.rows, options.rounds)
    mesh = open_topology(options.topology).mesh(partitioning.MeshConfig(-1, 1, 1))
    for name in options.weights or WEIGHTS:
        dtype, weights = WEIGHTS[name]
        config = dataclasses.replace(network(options.model), dtype=dtype)
        started = time.monotonic()
        rules = list(partitioning.DEFAULT_RULES)
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules), silenced(), uncached():
            program, params = lowered(config, weights, options, mesh)
            compiled, text = compile_to_text(program)
        memory: Any = compiled.memory_analysis()
        found = costs.analyse(text, dict(mesh.shape))
        line = {
            "weights": name,
            "parameter_mb": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)) / 1e6,
            "hbm_mb": found.hbm_bytes / 1e6,
            "xla_bytes_accessed_mb": (compiled.cost_analysis() or {}).get("bytes accessed", 0.0) / 1e6,
            "argument_mb": memory.argument_size_in_bytes / 1e6,
            "temporary_mb": memory.temp_size_in_bytes / 1e6,
            "compile_s": time.monotonic() - started,
        }
        print(
            json.dumps({key: one if isinstance(one, str) else round(one, 1) for key, one in line.items()}), flush=True
        )
        if options.text:
            with open(f"{options.text}{name}.hlo", "w", encoding="utf-8") as file:
                file.write(text)


if __name__ == "__main__":
    main()
