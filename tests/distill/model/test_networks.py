"""The network of a configuration."""

import jax
import pytest

from distill.model.network import Transformer
from distill.model.networks import decoding_cache_shapes, final_logit_cap, network_of
from distill.model.t5gemma import T5GemmaTransformer
from tests.distill.model.test_configs import FIRST, SECOND, T5


@pytest.mark.parametrize(
    ("config", "kind"), [(T5, Transformer), (FIRST, T5GemmaTransformer), (SECOND, T5GemmaTransformer)]
)
def test_each_family_has_its_network(config, kind):
    network = network_of(config)
    assert type(network) is kind and network.config == config


@pytest.mark.parametrize(
    "name", ["encode", "decode_hidden", "hidden", "__call__", "logits", "cross_key_values", "decode_step"]
)
def test_all_networks_have_the_same_methods(name):
    first, second = (getattr(kind, name) for kind in (Transformer, T5GemmaTransformer))
    arguments = [function.__wrapped__.__code__.co_varnames for function in (first, second)]
    count = first.__wrapped__.__code__.co_argcount
    assert arguments[0][:count] == arguments[1][:count]


def test_only_t5gemma_caps_its_logits():
    import dataclasses

    assert final_logit_cap(T5) is None and final_logit_cap(SECOND) is None
    assert final_logit_cap(dataclasses.replace(FIRST, final_logit_cap=30.0)) == 30.0


def test_caches_of_all_families():
    assert decoding_cache_shapes(T5, 6, 9) == ((6, 4, 9, 8),) * 2
    assert set(decoding_cache_shapes(SECOND, 6, 600)) == {(6, 2, 512, 8), (6, 2, 600, 8)}
    assert jax.tree.leaves(decoding_cache_shapes(SECOND, 6, 9)) == [6, 2, 9, 8] * 6
