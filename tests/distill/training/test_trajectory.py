"""Fifty training steps follow the published loss in PyTorch, step by step, packed and unpacked.

The reference is written as the published code is: two forward passes of ``T5ForConditionalGeneration``, each with the
mean cross-entropy over its own target tokens, ``α · L_label + (1 - α) · L_rationale``, clipping at a global norm, AdamW and
linear decay to 0. Rows are from the beginning of SVAMP and of CommonsenseQA, with PaLM's rationales; words are tokens.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from distill.checkpoints import huggingface
from distill.data.features import pack_batches
from distill.data.packing import Layout, TokenPair
from distill.tasks import task_ids
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.state import init_state
from distill.training.step import make_train_step
from tests.distill import hf_models

STEPS = 50
ROWS_PER_STEP = 4
ALPHA = 0.4
PEAK = 1e-3
WEIGHT_DECAY = 0.01
CLIP_NORM = 2.0
# The largest difference from the reference, of any step's loss, in nats.
TOLERANCE = 5e-5

SMALL = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "dropout_rate": 0.0}
EOS_ID = 1
PREFIXES = {task_ids.LABEL: "[label] ", task_ids.RATIONALE: "[rationale] "}
# Input, label and rationale.
SVAMP = [
    (
        "Luke scored 84 points after playing 2 rounds of a trivia game. If he gained the same number of "
        "points each round\n"
        "How many points did he score per round?",
        "( 84.0 / 2.0 )",
        "Luke scored 84 points after 2 rounds. So he scored 84 points in 2 rounds. 84 / 2 = 42.",
    ),
    (
        "Faye was placing her pencils and crayons into 7 rows with 36 pencils and 30 crayons in each row.\n"
        "How many crayons does she have?",
        "( 7.0 * 30.0 )",
        "Faye has 7 rows of pencils and crayons. Each row has 36 pencils and 30 crayons. So she has 7 * 36 "
        "pencils and 7 * 30 crayons. 7 * 36 is 252.",
    ),
    (
        "Julia played tag with 17 kids on monday, 15 kids on tuesday and 2 kids on wednesday.\n"
        "How many kids did she play with altogether?",
        "( ( 17.0 + 15.0 ) + 2.0 )",
        "Julia played with 17 kids on monday. 15 kids on tuesday. 2 kids on wednesday. So she played with 17 "
        "+ 15 + 2 = 34 kids altogether.",
    ),
    (
        "Bobby ate 23 pieces of candy. If he initially had 30 pieces of candy\n"
        "How many pieces of candy does he still have left?",
        "( 30.0 - 23.0 )",
        "Bobby started with 30 pieces of candy. He ate 23. So he has 30 - 23 = 7 pieces of candy left.",
    ),
    (
        "A mailman has to give 4 pieces of junk mail to each house in each of the 16 blocks. If there are 17 "
        "houses in each block\n"
        "How many pieces of junk mail should he give in total?",
        "( ( 4.0 * 17.0 ) * 16.0 )",
        "There are 16 blocks. Each block has 17 houses. So there are 16 * 17 = 272 houses. Each house gets 4 "
        "pieces of junk mail. So there are 272 * 4 = 1088 pieces of junk mail.",
    ),
    (
        "He then went to see the oranges being harvested. He found out that they harvest 8 sacks per day and "
        "that each sack containes 35 oranges.\n"
        "How many oranges do they harvest per day?",
        "( 8.0 * 35.0 )",
        "They harvest 8 sacks per day. Each sack contains 35 oranges. So they harvest 8 * 35 oranges per day. "
        "8 * 35 is 280.",
    ),
    (
        "Josh had 19 marbles in his collection. He lost 11 marbles and found 5 new ones.\n"
        "How many marbles does he have now?",
        "( ( 19.0 - 11.0 ) + 5.0 )",
        "Josh started with 19 marbles. After losing 11, he had 19 - 11 = 8 marbles. After finding 5 new ones, "
        "he had 8 + 5 = 13 marbles.",
    ),
]
CQA = [
    (
        "A John is a bum.  Much like the stereotype, he lives near this sort of transportation "
        "infrastructure. Where does he live?\n"
        "Answer Choices:\n"
        "(a) bus depot\n"
        "(b) beach\n"
        "(c) train station\n"
        "(d) bridge\n"
        "(e) bridge",
        "bridge",
        "The answer must be a place where a bum would live. Of the above choices, only a train station is a "
        "place where a bum would live.",
    ),
    (
        "A bad person places little value on being honest, acting without pretense or being what?\n"
        "Answer Choices:\n"
        "(a) excellent\n"
        "(b) upright\n"
        "(c) premium\n"
        "(d) competent\n"
        "(e) sincere",
        "sincere",
        "The answer must be a word that describes a good person. Of the above choices, only sincere describes "
        "a good person.",
    ),
    (
        "A bald eagle flies over St. Paul, where is it?\n"
        "Answer Choices:\n"
        "(a) texas\n"
        "(b) thermal\n"
        "(c) minnesota\n"
        "(d) canada\n"
        "(e) photograph",
        "minnesota",
        "The answer must be a place where bald eagles fly. Of the above choices, only Minnesota has bald eagles.",
    ),
    (
        "A battleship is a powerful vessel.  If you need something similar but faster, what would you use?\n"
        "Answer Choices:\n"
        "(a) yatch\n"
        "(b) corvette\n"
        "(c) aircraft carrier\n"
        "(d) destroyer\n"
        "(e) patrol boat",
        "corvette",
        "The answer must be a fast and powerful vessel. Of the above choices, only destroyers are fast and powerful.",
    ),
    (
        "A beaver is taking logs from a Pacific beach, where is it located?\n"
        "Answer Choices:\n"
        "(a) washington\n"
        "(b) ontario\n"
        "(c) books\n"
        "(d) canada\n"
        "(e) in russia",
        "washington",
        "The answer must be a place where beavers live. Of the above choices, only Canada has beavers.",
    ),
    (
        "A boss may like an employee's ambition, so the employee may get put what?\n"
        "Answer Choices:\n"
        "(a) in charge of project\n"
        "(b) conquer opponent\n"
        "(c) go to school\n"
        "(d) begin work\n"
        "(e) webisode",
        "in charge of project",
        "The answer must be something that a boss can put an employee in charge of. Of the above choices, "
        "only a project can be put in charge of.",
    ),
    (
        "A car was going from Florida to Ohio, what was it doing?\n"
        "Answer Choices:\n"
        "(a) roll over\n"
        "(b) head north\n"
        "(c) flying\n"
        "(d) speed up\n"
        "(e) heading north",
        "heading north",
        "The answer must be something that a car does when going from Florida to Ohio. Of the above choices, "
        "only heading north makes sense.",
    ),
]
DATA = {"svamp": SVAMP, "cqa": CQA}
LAYOUTS = {
    "unpacked": Layout(2 * ROWS_PER_STEP, 64, 64, packed=False),
    "packed": Layout(ROWS_PER_STEP, 120, 80, packed=True),
}


def words(text: str) -> list[str]:
    return re.findall(r"\w+|\S|\n", text)


VOCABULARY = {
    word: number
    for number, word in enumerate(
        sorted(
            {
                word
                for rows in DATA.values()
                for row in rows
                for text in (*PREFIXES.values(), *row)
                for word in words(text)
            }
        ),
        start=3,
    )
}


def tokens(text: str) -> np.ndarray:
    return np.array([*(VOCABULARY[word] for word in words(text)), EOS_ID], np.int32)


@functools.cache
def drawn(name: str) -> list[list[tuple[str, str, str]]]:
    """The rows of each step: the data set shuffled anew each epoch."""
    rows, rng = DATA[name], np.random.default_rng(0)
    stream = [rows[i] for _ in range(math.ceil(STEPS * ROWS_PER_STEP / len(rows))) for i in rng.permutation(len(rows))]
    return [stream[step * ROWS_PER_STEP :][:ROWS_PER_STEP] for step in range(STEPS)]


def group(row) -> list[TokenPair]:
    text, *targets = row
    pairs = []
    for task, target in zip((task_ids.LABEL, task_ids.RATIONALE), targets):
        ids = tokens(target)
        ones = np.ones(len(ids), np.float32)
        pairs.append(TokenPair(tokens(PREFIXES[task] + text), ids, np.full(len(ids), task, np.int32), ones))
    return pairs


def padded(sequences: list[np.ndarray], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(s).long() for s in sequences], True, value)


def mean_loss(model: torch.nn.Module, task: int, rows) -> torch.Tensor:
    """The mean cross-entropy over the target tokens of one task, as the Hugging Face trainer computes it."""
    inputs = padded([tokens(PREFIXES[task] + row[0]) for row in rows], 0)
    labels = padded([tokens(row[task]) for row in rows], -100)
    return model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels).loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The initial weights in Hugging Face's format."""
    return hf_models.save(hf_models.build("t5_v1_1", **SMALL), "t5_v1_1", tmp_path_factory.mktemp("initial"), **SMALL)


@functools.cache
def published(name: str) -> dict[str, list[float]]:
    """Loss, label loss, rationale loss and gradient norm before each step, in PyTorch."""
    model = hf_models.build("t5_v1_1", **SMALL).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, eps=1e-8, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / STEPS)
    trace = {"loss": [], "loss/label": [], "loss/rationale": [], "grad_norm": [], "learning_rate": []}
    for rows in drawn(name):
        label, rationale = (mean_loss(model, task, rows) for task in (task_ids.LABEL, task_ids.RATIONALE))
        loss = ALPHA * label + (1.0 - ALPHA) * rationale
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        rate = schedule.get_last_lr()[0]
        for key, value in zip(trace, (loss, label, rationale, norm, rate)):
            trace[key].append(float(value.detach() if torch.is_tensor(value) else value))
        optimizer.step()
        schedule.step()
    return trace


@pytest.fixture(scope="module")
def student(folder):
    """Parameters, the optimizer and the training step, which is traced once per layout."""
    config, params = huggingface.load_pretrained(folder)
    optimizer = optimizers.adamw(
        optimizers.linear_decay(PEAK, STEPS), weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM, eps=1e-8
    )
    return params, optimizer, jax.jit(make_train_step(config, TwoTaskLoss(alpha=ALPHA), optimizer), donate_argnums=0)


@pytest.mark.parametrize("form", LAYOUTS)
@pytest.mark.parametrize("name", DATA)
def test_fifty_steps_follow_the_published_loss(name, form, student):
    wanted = published(name)
    params, optimizer, step = student
    state = init_state(jax.tree.map(jnp.array, params), optimizer)
    got = {key: [] for key in wanted}
    for rows in drawn(name):
        (batch,) = pack_batches(map(group, rows), LAYOUTS[form])
        state, metrics = step(state, batch, jax.random.key(0))
        for key in got:
            total, count = metrics[key]
            got[key].append(float(total) / float(count))
    for key in ("loss", "loss/label", "loss/rationale"):
        np.testing.assert_allclose(got[key], wanted[key], rtol=0.0, atol=TOLERANCE, err_msg=key)
    np.testing.assert_allclose(got["learning_rate"], wanted["learning_rate"], rtol=1e-5)
    np.testing.assert_allclose(got["grad_norm"], wanted["grad_norm"], rtol=1e-3)


def test_the_reference_clips_learns_and_decays():
    """Otherwise the comparison would not cover clipping, learning or the schedule."""
    for name in DATA:
        trace = published(name)
        clipped = np.array(trace["grad_norm"]) > CLIP_NORM
        assert 5 < clipped.sum() < STEPS
        assert trace["loss"][-1] < 0.7 * trace["loss"][0]
        assert trace["learning_rate"][0] == PEAK and trace["learning_rate"][-1] == pytest.approx(PEAK / STEPS)
