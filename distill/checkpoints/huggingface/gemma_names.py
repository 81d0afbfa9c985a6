"""Names of Hugging Face tensors and of the parameters that they correspond to, for T5Gemma and T5Gemma 2."""

from collections.abc import Collection, Iterator

from distill.checkpoints.huggingface.names import Entry, Path
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

ENCODER_TABLE, DECODER_TABLE = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
LM_HEAD = "lm_head.out_proj.weight"
# Older files of T5Gemma 2 have the second prefix in the names of the encoder's tensors.
_TEXT_MODEL = ("model.encoder.", "model.encoder.text_model.")
# Vision tensors of T5Gemma 2: a tower, its projection, and the embedding of the token that ends an image.
_VISION_PREFIXES = ("model.encoder.vision_tower.", "model.encoder.multi_modal_projector.")
_VISION_ENDING = ".eoi_embedding"


def entries(config: T5GemmaConfig) -> Iterator[Entry]:
    """Every parameter of ``config``, with the tensor it is read from and written to."""

    def table(name: str, path: Path, width: int) -> Entry:
        return Entry(name, (config.vocab_size, width), (*path, "embedding"), transposed=False)

    yield table(ENCODER_TABLE, ("token_embedder",), config.encoder.embed_dim)
    if config.version == 1:
        yield table(DECODER_TABLE, ("decoder_token_embedder",), config.decoder.embed_dim)
    yield from _stack(config, "encoder", config.encoder)
    yield from _stack(config, "decoder", config.decoder)
    if not config.logits_via_embedding:
        shape = (config.vocab_size, config.decoder.embed_dim)
        yield Entry(LM_HEAD, shape, ("decoder", "logits_dense", "kernel"))


def other_names(config: T5GemmaConfig, name: str) -> tuple[str, ...]:
    """Returns other names under which a file may contain the tensor ``name``, or equal copies of it."""
    tied = (LM_HEAD,) if config.logits_via_embedding else ()
    if config.version == 1:
        return tied if name == DECODER_TABLE else ()
    prefix, longer = _TEXT_MODEL
    others = (name.replace(prefix, longer, 1),) if name.startswith(prefix) else ()
    return (*others, DECODER_TABLE, *tied) if name == ENCODER_TABLE else others


def held_names(config: T5GemmaConfig, name: str, held: Collection[str]) -> tuple[str, ...]:
    """Returns the names in ``held`` under which the tensor ``name`` is saved."""
    return tuple(one for one in (name, *other_names(config, name)) if one in held)


def zeros(config: T5GemmaConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shapes, by name, of tensors of zeros that ``transformers`` expects in addition to the parameters.

    Without the embedding of the token that ends an image, ``transformers`` reports a checkpoint as corrupted.
    """
    return {f"model.encoder.embed_tokens{_VISION_ENDING}": (config.embed_dim,)} if config.version == 2 else {}


def is_vision(name: str) -> bool:
    """Whether a tensor is part of the vision tower, which students do not have."""
    return name.startswith(_VISION_PREFIXES) or name.endswith(_VISION_ENDING)


def _stack(config: T5GemmaConfig, stack: str, shape: StackConfig) -> Iterator[Entry]:
    own = "attention" if stack == "encoder" else "self_attention"
    for index in range(shape.num_layers):
        theirs, ours = f"model.{stack}.layers.{index}", (stack, f"layers_{index}")
        yield from _norms(shape, theirs, "self_attn", (*ours, own))
        yield from _attention(config, shape, f"{theirs}.self_attn", (*ours, own), shape.embed_dim)
        if stack == "decoder" and not config.merged:
            cross = (*ours, "encoder_decoder_attention")
            yield from _norms(shape, theirs, "cross_attn", (*ours, "cross_attention"))
            yield from _attention(config, shape, f"{theirs}.cross_attn", cross, config.encoder.embed_dim)
        yield from _norms(shape, theirs, "feedforward", (*ours, "mlp"))
        for name, inner in (("gate_proj", "wi_0"), ("up_proj", "wi_1")):
            where = (*ours, "mlp", inner, "kernel")
            yield Entry(f"{theirs}.mlp.{name}.weight", (shape.mlp_dim, shape.embed_dim), where)
        where = (*ours, "mlp", "wo", "kernel")
        yield Entry(f"{theirs}.mlp.down_proj.weight", (shape.embed_dim, shape.mlp_dim), where)
    yield _vector(f"model.{stack}.norm.weight", shape.embed_dim, (stack, f"{stack}_norm"))


def _vector(name: str, width: int, path: Path) -> Entry:
    return Entry(name, (width,), (*path, "scale"), transposed=False)


def _norms(shape: StackConfig, theirs: str, part: str, ours: Path) -> Iterator[Entry]:
    """The norms before and after a part of a layer; the last element of ``ours`` is the part's name here."""
    for place in ("pre", "post"):
        path = (*ours[:-1], f"{place}_{ours[-1]}_layer_norm")
        yield _vector(f"{theirs}.{place}_{part}_layernorm.weight", shape.embed_dim, path)


def _attention(config: T5GemmaConfig, shape: StackConfig, theirs: str, ours: Path, attended: int) -> Iterator[Entry]:
    query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    yield Entry(f"{theirs}.q_proj.weight", (query, shape.embed_dim), (*ours, "query", "kernel"))
    yield Entry(f"{theirs}.k_proj.weight", (key, attended), (*ours, "key", "kernel"))
    yield Entry(f"{theirs}.v_proj.weight", (key, attended), (*ours, "value", "kernel"))
    yield Entry(f"{theirs}.o_proj.weight", (shape.embed_dim, query), (*ours, "out", "kernel"))
    if config.version == 2:
        yield _vector(f"{theirs}.q_norm.weight", shape.head_dim, (*ours, "query_norm"))
        yield _vector(f"{theirs}.k_norm.weight", shape.head_dim, (*ours, "key_norm"))
