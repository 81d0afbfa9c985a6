"""Fixtures for several folders: a tiny data set, a tiny student, the command that trains one, and a small vocabulary."""

import jax
import numpy as np
import pytest
import sentencepiece

import made_once
import traced_steps
from distill.checkpoints import conversion
from distill.checkpoints.manager import CheckpointConfig
from distill.checkpoints.weights import flatten
from distill.inference import student as students
from distill.inference.evaluate import DecodeConfig
from distill.inference.student import Student
from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.sharding import partitioning
from distill.tasks import jsonl, reading, registration, vocabularies
from distill.training import curves, optimizers, train
from distill.training.losses import TwoTaskLoss
from distill.training.train import DataConfig, LoopConfig, ValidationConfig
from tests_support import QUESTIONS, write_rows

TINY = T5Config(
    vocab_size=384,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
)
ANSWERING = T5Config(384, 16, 2, 8, 32, 1, 1)

train.make_train_step = traced_steps.kept(train.make_train_step)
reading.examples = made_once.examples(reading.examples)
curves._figure = made_once.pictures(curves._figure)


def register_sums(folder):
    """Writes a data set of 40 + 6 + 10 rows into ``folder``, registers it and returns its names."""
    write_rows(folder / "train.jsonl", 40)
    write_rows(folder / "validation.jsonl", 6, start=40)
    write_rows(folder / "test.jsonl", 10, start=50)
    dataset = jsonl.dataset(
        {split: folder / f"{split}.jsonl" for split in ("train", "validation", "test")},
        name="sums",
        fields={"input": "question", "rationale": "why", "label": "answer"},
    )
    return registration.register(dataset, "bytes")


@pytest.fixture
def sums(tmp_path):
    """The registered names of a data set of 40 + 10 rows."""
    return register_sums(tmp_path)


@pytest.fixture
def arguments(sums):
    """The arguments of :func:`distill.training.train.train` except the directory; a run of 8 steps."""
    return arguments_for(sums)


def arguments_for(sums):
    """What the fixture ``arguments`` gives, for the registered names of the data set."""
    return {
        "model": TINY,
        "data": DataConfig(sums.paired, {"inputs": 64, "targets": 64}, batch_size=4),
        "loss": TwoTaskLoss(lam=0.5),
        "optimizer": optimizers.adamw(1e-2),
        "loop": LoopConfig(train_steps=8, log_period=4, seed=3),
        "validation": ValidationConfig(
            sums.label, period=4, decode=DecodeConfig(max_decode_len=4, max_input_len=32, batch_size=8)
        ),
        "mesh": partitioning.MeshConfig(1, 1, 1),
        "checkpoints": CheckpointConfig(period=4),
    }


@pytest.fixture
def model_dir(tmp_path):
    """A student's directory, with parameters whose answers differ from input to input; nothing was trained."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(np.asarray, init_params(ANSWERING, jax.random.key(0)))
    params = jax.tree.map(lambda a: (a + rng.normal(size=a.shape, scale=0.3)).astype(np.float32), params)
    conversion.write_model_dir(flatten(params).__getitem__, ANSWERING, tmp_path / "run", 4)
    decode = DecodeConfig(max_decode_len=4, max_input_len=32, batch_size=8)
    mesh = partitioning.MeshConfig(1, 1, 1)
    students.write(tmp_path / "run", Student(ANSWERING, "bytes", 125, dataset="sums", decode=decode, mesh=mesh), None)
    return str(tmp_path / "run")


@pytest.fixture
def train_command(tmp_path):
    """``distill train`` of a tiny student, with a checkpoint every four steps."""
    write_rows(tmp_path / "train.jsonl", 40)
    files = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "train.jsonl")}
    given = {
        "FILES": files, "FIELDS": {"input": "question", "rationale": "why", "label": "answer"}, "VOCABULARY_PATH": "bytes",
        "VOCAB_SIZE": 384, "TRAIN_STEPS": 2000, "EVAL_PERIOD": 2000, "CHECKPOINT_PERIOD": 4, "LOG_PERIOD": 4,
        "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "BATCH_SIZE": 4, "MODEL_DIR": "run",
        "network.T5Config.num_encoder_layers": 1, "network.T5Config.num_decoder_layers": 1,
        "network.T5Config.embed_dim": 16, "network.T5Config.mlp_dim": 16, "network.T5Config.num_heads": 2,
        "TEST_SPLIT": None,
    }  # fmt: skip
    names = ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")
    return [
        "train",
        *(f"--gin_file=gin/{name}.gin" for name in names),
        *(f"--gin.{key}={value!r}" for key, value in given.items()),
    ]


@pytest.fixture(scope="session")
def small_vocabulary(tmp_path_factory):
    """A unigram SentencePiece model with T5's special ids."""
    folder = tmp_path_factory.mktemp("vocabulary")
    lines = [f"[label] {text} because they are {i} in all." for i, text in enumerate(QUESTIONS)] * 4
    (folder / "text").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "m"), vocab_size=120, model_type="unigram", pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>", minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    return vocabularies.load(str(folder / "m.model"))
