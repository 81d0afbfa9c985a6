"""Which attention computes what: ``auto`` and every explicit value, per platform, with one message or warning each."""

import logging

import jax
import jax.numpy as jnp
import pytest
from abstract_meshes import mesh_of

from distill.model.config import ATTENTIONS
from distill.sharding import attention_choice, partitioning
from distill.sharding.attention_choice import Shapes, choose

# T5 1.1 Base: all kernels compute these shapes.
GOOD = Shapes(8, 256, 256, 12, 64, jnp.bfloat16)


# T5Gemma 2 270M: merged attention to 256 target and 1,024 input positions.
GROUPED = Shapes(8, 256, 1280, 4, 256, jnp.bfloat16, 1)


@pytest.fixture(autouse=True)
def nothing_logged_yet(caplog):
    attention_choice._log_once.cache_clear()
    caplog.set_level(logging.INFO)
    yield
    attention_choice._log_once.cache_clear()


def on(monkeypatch, platform):
    monkeypatch.setattr(partitioning, "platform", lambda: platform)


@pytest.mark.parametrize(
    ("platform", "shapes", "chosen"),
    [
        ("tpu", GOOD, "pallas"),
        ("tpu", GOOD._replace(query_length=100), "xla"),
        ("tpu", GROUPED, "pallas"),
        ("tpu", GROUPED._replace(key_length=1300), "xla"),
        ("gpu", GROUPED, "xla"),
        ("gpu", GOOD, "triton"),
        ("cuda", GOOD, "triton"),
        ("gpu", GOOD._replace(query_length=90), "cudnn"),  # no multiple of 16, but even
        ("gpu", GOOD._replace(query_length=90, dtype=jnp.float32), "xla"),
        ("gpu", GOOD._replace(query_length=91), "xla"),
        ("cpu", GOOD, "xla"),
        ("rocm", GOOD, "xla"),
    ],
)
def test_auto(platform, shapes, chosen, monkeypatch, caplog):
    on(monkeypatch, platform)
    assert [choose("auto", shapes) for _ in range(3)] == [chosen] * 3
    (record,) = caplog.records  # once, however many layers the network has
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f'attention="auto" chose {chosen} on {platform}')


def test_auto_names_why_it_did_not_choose_what_it_prefers(monkeypatch, caplog):
    on(monkeypatch, "gpu")
    choose("auto", GOOD._replace(query_length=91))
    (message,) = (record.getMessage() for record in caplog.records)
    assert "(triton: lengths 91 and 256 are no multiples of 16)" in message
    assert "(cudnn: cuDNN's gradient of a bias requires even lengths; got 91 queries and 256 keys)" in message


@pytest.mark.parametrize(
    ("wanted", "platform"), [("pallas", "tpu"), ("triton", "gpu"), ("cudnn", "gpu"), ("xla", "tpu"), ("xla", "gpu")]
)
def test_what_is_given_is_used_without_a_message(wanted, platform, monkeypatch, caplog):
    on(monkeypatch, platform)
    assert choose(wanted, GOOD) == wanted
    assert not caplog.records


def test_a_kernel_that_is_interpreted_is_used_with_a_warning(monkeypatch, caplog):
    on(monkeypatch, "gpu")
    assert choose("pallas", GOOD) == choose("pallas", GOOD) == "pallas"
    (message,) = (record.getMessage() for record in caplog.records)
    assert "interpreted on gpu, which is slow" in message


@pytest.mark.parametrize(
    ("wanted", "platform", "shapes", "warning"),
    [
        ("pallas", "tpu", GOOD._replace(key_length=100), "without the Pallas kernel: lengths 256 and 100 are no"),
        ("triton", "cpu", GOOD, "without the Triton kernels: they run on NVIDIA GPUs, not on cpu"),
        ("triton", "gpu", GOOD._replace(head_dim=48), "without the Triton kernels: heads of 48 are not of 16"),
        (
            "pallas",
            "tpu",
            GROUPED._replace(key_length=16384),
            "without the Pallas kernel: 16384 keys per row do not fit",
        ),
        ("triton", "gpu", GROUPED, "without the Triton kernels: they have no windows, soft caps and grouped heads"),
        ("cudnn", "gpu", GROUPED, "without cuDNN: it has no windows, soft caps and grouped heads"),
        ("cudnn", "tpu", GOOD, "without cuDNN: cuDNN runs on NVIDIA GPUs, not on tpu"),
        ("cudnn", "gpu", GOOD._replace(dtype=jnp.float32), "without cuDNN: cuDNN's attention computes in bfloat16"),
    ],
)
def test_what_cannot_compute_the_shapes_is_replaced_with_one_warning(
    wanted, platform, shapes, warning, monkeypatch, caplog
):
    on(monkeypatch, platform)
    assert [choose(wanted, shapes) for _ in range(2)] == ["xla"] * 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"attention runs {warning}" in record.getMessage()


def test_other_shapes_have_their_own_warning(monkeypatch, caplog):
    on(monkeypatch, "gpu")
    for length in (90, 91, 90):
        choose("triton", GOOD._replace(query_length=length))
    assert len(caplog.records) == 2


def test_every_value_of_the_configuration_is_known(monkeypatch):
    for platform in ("cpu", "gpu", "tpu"):
        on(monkeypatch, platform)
        assert {choose(wanted, GOOD) for wanted in ATTENTIONS} <= set(ATTENTIONS) - {"auto"}


def test_the_mesh_decides_not_the_machine():
    """On this CPU, a program that is traced for a mesh of TPUs has the TPU's attention."""
    mesh = mesh_of("tpu")
    assert choose("auto", GOOD) == "xla"
    with jax.sharding.use_abstract_mesh(mesh):
        assert choose("auto", GOOD) == "pallas"
