"""The configuration of T5Gemma networks: windows, layer kinds, and values that are refused."""

import dataclasses

import pytest

from distill.model.t5gemma_config import StackConfig, T5GemmaConfig, Window

STACK = StackConfig(
    num_layers=6, embed_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=8, query_pre_attn_scalar=8.0,
    sliding_window=512, global_every=6,
)  # fmt: skip
SECOND = T5GemmaConfig(2, 64, STACK, STACK, rope_base_global=1e6)
FIRST = T5GemmaConfig(1, 64, STACK, dataclasses.replace(STACK, embed_dim=16), attention_logit_cap=50.0)


def test_one_layer_in_six_is_global():
    assert [STACK.is_local(index) for index in range(6)] == [True] * 5 + [False]
    assert not any(dataclasses.replace(STACK, global_every=1).is_local(index) for index in range(6))


def test_windows_of_each_version():
    """A decoder sees 512 keys up to its own; T5Gemma 2's encoder 512 in all, T5Gemma's 512 on each side."""
    assert SECOND.window("decoder") == FIRST.window("decoder") == Window(511, 0)
    assert FIRST.window("encoder") == Window(512, 512)
    assert SECOND.window("encoder") == Window(255, 256)
    odd = dataclasses.replace(SECOND, encoder=dataclasses.replace(STACK, sliding_window=5))
    assert odd.window("encoder") == Window(2, 2)


def test_shapes_that_other_code_reads():
    assert (FIRST.embed_dim, FIRST.num_encoder_layers, FIRST.num_decoder_layers) == (16, 6, 6)
    assert SECOND.merged and not FIRST.merged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "StackConfig.num_layers must be an integer ≥ 1; got 0"),
        ({"num_heads": True}, "StackConfig.num_heads must be an integer ≥ 1; got True"),
        ({"num_kv_heads": 3}, "StackConfig.num_kv_heads must divide num_heads=4; got 3"),
        ({"head_dim": 7}, "StackConfig.head_dim must be even, rotary embeddings rotate pairs; got 7"),
        ({"query_pre_attn_scalar": 0.0}, "StackConfig.query_pre_attn_scalar must be > 0; got 0.0"),
    ],
)
def test_stacks_that_are_refused(changes, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(STACK, **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (SECOND, {"version": 3}, r"version must be one of \(1, 2\); got 3"),
        (SECOND, {"encoder": {"num_layers": 2}}, "encoder must be a StackConfig; got {'num_layers': 2}"),
        (SECOND, {"dtype": "float16"}, "dtype must be one of"),
        (SECOND, {"remat_policy": "ful"}, "did you mean 'full'"),
        (SECOND, {"attention": "xls"}, "attention must be one of .* did you mean 'xla'"),
        (SECOND, {"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\); got 1.0"),
        (SECOND, {"final_logit_cap": 0.0}, "final_logit_cap must be > 0 or None; got 0.0"),
        (SECOND, {"rope_scale_global": 0.0}, "rope_scale_global must be > 0; got 0.0"),
        (SECOND, {"decoder_start_id": 64}, r"decoder_start_id must be in \[0, vocab_size=64\); got 64"),
        (SECOND, {"attention_logit_cap": 50.0}, "attention_logit_cap must be None in version 2; got 50.0"),
        (SECOND, {"logits_via_embedding": False}, "logits_via_embedding must be True in version 2; got False"),
        (SECOND, {"decoder": FIRST.decoder}, "embed_dim must be the same; got 32 and 16"),
        (FIRST, {"rope_base_global": 1e6}, "of version 1 have the same rotary embeddings"),
    ],
)
def test_networks_that_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)
