"""Every shipped gin file is parsed and built; no setting may be stale."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from distill.api import configuration
from distill.checkpoints.huggingface import families
from distill.data.curriculum import Curriculum
from distill.experiments import demo, sweep
from distill.model import network, parameters
from distill.model.t5gemma_config import T5GemmaConfig
from distill.tasks import registration
from distill.training import checks, train
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer
from distill.training.state import random_state
from distill.training.step import make_train_step
from distill.training.train import DataConfig, LoopConfig, ValidationConfig
from distill.training.uncertainty import WeighingOptimizer

ROOT = pathlib.Path(__file__).resolve().parents[3]
GIVEN = ["MODEL_DIR = 'runs/x'", "VOCABULARY_PATH = 'bytes'"]
RUNS = ("distill", "finetune", "task_distill", "single_task")


def names(folder, skip=()):
    found = sorted(path.stem for path in (ROOT / "gin" / folder).glob("*.gin"))
    assert found, folder
    return [name for name in found if name not in skip]


def build(model="t5_1_1_tiny", task="svamp", run="distill", hardware="cpu", extra=()):
    files = [f"gin/models/{model}.gin", f"gin/tasks/{task}.gin", f"gin/runs/{run}.gin", f"gin/hardware/{hardware}.gin"]
    configuration.parse(files, [*GIVEN, *extra])
    return configuration.arguments_of(train.train)


FAMILIES = ("t5_1_1", "t5_1_0", "mt5", "umt5", "byt5", "t5gemma", "t5gemma2")
# Parameter counts of Hugging Face's models of the same names (torch's numel over parameters, tied ones once).
KNOWN = {
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "t5_1_0_small": 60_506_624,
    "t5_1_0_base": 222_903_552,
    "mt5_small": 300_176_768,
    # Published by KerasHub for its conversions of the Hugging Face weights.
    "t5gemma_s": 312_517_632,
    "t5gemma_b": 591_490_560,
}
# Google's numbers of text-only parameters of T5Gemma 2 (blog of December 2025).
ABOUT = {"t5gemma2_270m": 370e6, "t5gemma2_1b": 1.7e9, "t5gemma2_4b": 7e9}
# Layers, width, feed-forward width, heads, heads of keys and values, head width, window.
T5GEMMA_SIZES = {
    "t5gemma_s": (8, 512, 1024, 8, 8, 64, 4096),
    "t5gemma_b": (12, 768, 2048, 12, 12, 64, 4096),
    "t5gemma_l": (24, 1024, 2816, 16, 16, 64, 4096),
    "t5gemma_xl": (24, 2048, 5120, 32, 32, 64, 4096),
    "t5gemma_ml": (26, 1152, 6912, 4, 4, 256, 4096),
    "t5gemma_2b_2b": (26, 2304, 9216, 8, 4, 256, 4096),
    "t5gemma_9b_9b": (42, 3584, 14336, 16, 8, 256, 4096),
    "t5gemma2_270m": (18, 640, 2048, 4, 1, 256, 512),
    "t5gemma2_1b": (26, 1152, 6912, 4, 1, 256, 512),
    "t5gemma2_4b": (34, 2560, 10240, 8, 4, 256, 1024),
}


def data_dir(tmp_path):
    return f"DATA_DIR = {str(tmp_path)!r}"


@pytest.mark.parametrize("model", names("models", skip=FAMILIES))
def test_model(model, tmp_path):
    given = build(model=model, extra=[data_dir(tmp_path)])
    config = given["model"]
    assert isinstance(config, T5GemmaConfig if model.startswith("t5gemma") else network.T5Config)
    assert config.vocab_size % 128 == 0
    if isinstance(config, T5GemmaConfig):
        number = t5gemma_count(config)
        written = re.search(r": ([\d.]+)([MB]) parameters", (ROOT / f"gin/models/{model}.gin").read_text())
        assert number == pytest.approx(float(written[1]) * {"M": 1e6, "B": 1e9}[written[2]], rel=0.005)
        assert number == pytest.approx(ABOUT.get(model, number), rel=0.02)
        assert number == KNOWN.get(model, number)
        assert model != "t5gemma2_tiny" or number == parameters.param_count(config)
    elif model in KNOWN:
        # Of deep ones, with their layers stacked: one layer is traced instead of all.
        stacked = dataclasses.replace(config, scan_layers=config.num_encoder_layers > 8)
        assert parameters.param_count(stacked) == KNOWN[model]


def t5gemma_count(config):
    """The parameters of a T5Gemma, from three networks of one or two layers: all layers of a stack have the same number."""

    def count(encoder, decoder):
        layers = {"encoder": encoder, "decoder": decoder}
        few = {name: dataclasses.replace(getattr(config, name), num_layers=number) for name, number in layers.items()}
        return parameters.param_count(dataclasses.replace(config, **few))

    one, encoder, decoder = count(1, 1), count(2, 1), count(1, 2)
    more = (config.num_encoder_layers - 1) * (encoder - one) + (config.num_decoder_layers - 1) * (decoder - one)
    return one + more


@pytest.mark.parametrize("model", [*T5GEMMA_SIZES, "t5gemma_9b_2b"])
def test_a_t5gemma_is_the_published_one(model, tmp_path):
    """Every value of a T5Gemma, by the facts above and transformers' defaults, which are those of the 2B-2B."""
    transformers = pytest.importorskip("transformers")
    config = build(model=model, hardware="tpu_v5e_16", extra=[data_dir(tmp_path)])["model"]
    assert (config.dtype, config.remat_policy, config.scan_layers) == ("bfloat16", "elementwise", True)
    config = dataclasses.replace(config, dtype="float32", remat_policy="none", scan_layers=False, attention="xla")
    kinds = {"t5gemma_9b_2b": ("t5gemma_9b_9b", "t5gemma_2b_2b")}.get(model, (model, model))
    sizes = ("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads", "head_dim", "sliding_window")
    for stack, kind in zip((config.encoder, config.decoder), kinds, strict=True):
        assert tuple(getattr(stack, name) for name in sizes) == T5GEMMA_SIZES[kind]
        assert stack.query_pre_attn_scalar == stack.head_dim  # as in gemma/research/t5gemma and Gemma 3
    if config.version == 1:
        usual = families.config_from_hf(transformers.T5GemmaConfig(encoder={}, decoder={}).to_dict())
        assert dataclasses.replace(usual, encoder=config.encoder, decoder=config.decoder) == config
        assert model != "t5gemma_2b_2b" or usual == config
    else:
        usual = families.config_from_hf(transformers.T5Gemma2Config(encoder={}, decoder={}).to_dict())
        stacks = {"encoder": config.encoder, "decoder": config.decoder}
        published = {"vocab_size": 262_144, "rope_scale_global": 8.0}  # of google/t5gemma-2-270m-270m's config.json
        assert dataclasses.replace(usual, **stacks, **published) == config
    assert {stack.global_every for stack in (usual.encoder, usual.decoder)} == {config.encoder.global_every}


@pytest.mark.parametrize("run", RUNS)
def test_run(run, tmp_path):
    given = build(run=run, extra=[data_dir(tmp_path)])
    assert isinstance(given["data"], DataConfig)
    assert isinstance(given["loss"], TwoTaskLoss)
    assert isinstance(given["optimizer"], Optimizer)
    assert isinstance(given["loop"], LoopConfig)
    assert isinstance(given["validation"], ValidationConfig)
    forms = {"distill": "paired", "distill_shared": "shared", "finetune": "label", "task_distill": "label"}
    expected = {**forms, "single_task": "single"}[run]
    assert given["data"].mixture_or_task_name == f"svamp_{expected}"
    assert given["data"].shared_encoder == (run == "distill_shared")
    assert configuration.macro("LABEL_SOURCE") == ("teacher" if run == "task_distill" else "gold")


def test_pretraining_needs_no_task_file(tmp_path):
    files = ["gin/models/t5_1_1_nano.gin", "gin/runs/pretrain.gin", "gin/hardware/cpu.gin"]
    configuration.parse(files, [*GIVEN, "FILES = {'train': 'books.txt'}"])
    given = configuration.arguments_of(train.train)
    assert given["data"].mixture_or_task_name == given["validation"].task_name == "text_spans"
    spans = configuration.arguments_of(registration.register)["dataset"].spans
    assert given["data"].task_feature_lengths == {"inputs": spans.inputs_length, "targets": spans.targets_length}
    assert float(given["optimizer"].learning_rate(jnp.int32(40_000))) == pytest.approx(0.5e-2)


def test_the_reader_sweep_pretrains_the_student_that_all_its_runs_start_from():
    """Its start is what its runs start from: the same model and vocabulary."""
    made = sweep.read(ROOT / "gin/sweeps/reader.yaml", "out")
    start = made.start_run()
    given = {}
    for run in [start, *(run for run in made.runs() if run.values["RANDOM_SEED"] == "0")]:
        bindings = [text for text in run.bindings if not text.startswith("VOCABULARY_PATH")]
        configuration.parse(run.gin_files, [*bindings, "VOCABULARY_PATH = 'bytes'"])
        given[run.name] = configuration.arguments_of(train.train)
    pretraining = given.pop(start.name)
    assert 2e6 < parameters.param_count(pretraining["model"]) < 6e6
    assert pretraining["data"].mixture_or_task_name == "text_spans"
    assert {arguments["initial_checkpoint_path"] for arguments in given.values()} == {"out/pretraining"}
    assert len(given) == 24  # four data sets, six methods
    shape = dataclasses.replace(pretraining["model"], dropout_rate=0.1)
    assert {arguments["model"] for arguments in given.values()} == {shape}
    vocabularies = {
        text for run in [start, *made.runs()] for text in run.bindings if text.startswith("VOCABULARY_PATH")
    }
    assert len(vocabularies) == 1


SWITCHES = {
    "lambda_schedule": lambda given: float(given["loss"].lam(jnp.int32(5000))) == pytest.approx(0.5),
    "uncertainty": lambda given: isinstance(given["optimizer"], WeighingOptimizer),
    "all_rationales": lambda given: configuration.macro("RATIONALES") == "all",
    "several_teachers": lambda given: "gpt-neox" in configuration.macro("TEACHER_PREFIXES"),
    "soft_labels": lambda given: (
        (configuration.macro("SOFT_LABELS"), configuration.macro("LABEL_SOURCE")) == (True, "teacher")
    ),
    "label_first": lambda given: configuration.macro("SINGLE_ORDER") == "label_first",
    "key_tokens": lambda given: configuration.macro("KEY_TOKENS") == "label",
    "confidence": lambda given: configuration.macro("CONFIDENCE") == "both",
    "curriculum": lambda given: given["data"].curriculum == Curriculum(),
    "mutual_information": lambda given: given["loss"].mutual_information == 0.1 and given["data"].shared_encoder,
}


@pytest.mark.parametrize("run", SWITCHES)
def test_switch(run, tmp_path):
    given = build(run=run, extra=[data_dir(tmp_path)])
    assert SWITCHES[run](given)
    make_train_step(given["model"], given["loss"], given["optimizer"], **given["loop"].step_options())


def test_every_run_file_is_tested():
    assert {*RUNS, *SWITCHES, "distill_shared", "pretrain", "train", "data", "eval"} <= set(names("runs"))
    assert set(names("runs")) - {*SWITCHES, *RUNS} <= {"distill_shared", "train", "data", "eval", "pretrain"}


@pytest.mark.parametrize("task", names("tasks", skip=("jsonl", "demo")))
def test_task(task, tmp_path):
    wants_data_dir = "%DATA_DIR" in (ROOT / f"gin/tasks/{task}.gin").read_text()
    given = build(task=task, extra=[data_dir(tmp_path)] if wants_data_dir else [])
    assert set(given["data"].task_feature_lengths) == {"inputs", "targets"}
    assert given["validation"].task_name.endswith("_label")


@pytest.mark.parametrize("hardware", names("hardware"))
def test_hardware(hardware, tmp_path):
    given = build(hardware=hardware, extra=[data_dir(tmp_path)])
    mesh = given["mesh"]
    assert mesh.shape(1024)
    assert given["model"].dtype in ("float32", "bfloat16")


@pytest.mark.parametrize("name", names("compiler"))
def test_compiler(name, tmp_path):
    """They go after the run's file and change its default. Precompile tests check that the TPU compiler accepts them."""
    files = [f"gin/{file}.gin" for file in ("models/t5_1_1_tiny", "tasks/svamp", "runs/distill", "hardware/tpu_v5e_16")]
    configuration.parse([*files, f"gin/compiler/{name}.gin"], [*GIVEN, data_dir(tmp_path)])
    options = configuration.arguments_of(train.train)["loop"].compiler_options
    assert options and all(name.startswith("xla_tpu_") for name in options)


@pytest.mark.parametrize("recipe", names("recipes"))
def test_recipe(recipe, tmp_path):
    extra = [] if recipe.startswith(("demo", "quickstart")) else [data_dir(tmp_path)]
    configuration.parse([f"gin/recipes/{recipe}.gin", "gin/hardware/cpu.gin"], [*GIVEN, *extra])
    assert configuration.arguments_of(train.train)["loop"].train_steps >= 1


def levels():
    return {run.values["switch"]: run for run in sweep.read(ROOT / "gin/sweeps/methods.yaml", "out").runs()}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return demo.write_vocabulary(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("level", levels())
def test_each_level_of_the_methods_sweep_reads_its_data_and_traces_its_step(level, words):
    run = levels()[level]
    few = ["TRAIN_ROWS = 40", "demo_world.dataset.validation_rows = 4", "demo_world.dataset.test_rows = 4"]
    few += [f"network.T5Config.num_{part}_layers = 1" for part in ("encoder", "decoder")]
    configuration.parse(run.gin_files, [*run.bindings, f"VOCABULARY_PATH = {str(words)!r}", *few])
    configuration.configured(train.train)
    given = configuration.arguments_of(train.train)
    configuration.configured(registration.register)()
    checks.check(**given)
    batch = next(given["data"].stream(0)).arrays
    labels = batch["decoder_loss_weights"][batch["decoder_task_ids"] == 1]
    assert (set(labels.tolist()) <= {0.0, 1.0}) != (level in ("soft labels", "confidence"))
    step = make_train_step(given["model"], given["loss"], given["optimizer"], **given["loop"].step_options())
    state = jax.eval_shape(lambda: random_state(given["model"], given["optimizer"], jax.random.key(0), ema=True))
    arrays = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
    metrics = jax.eval_shape(step, state, arrays, jax.eval_shape(lambda: jax.random.key(0)))[1]
    assert ("lambda" in metrics) == (level in ("λ along a cosine", "learned weights"))
    assert ("loss/mutual_information" in metrics) == (level == "mutual information")


def test_every_file_starts_with_a_comment():
    for path in (ROOT / "gin").rglob("*.gin"):
        assert path.read_text().startswith("# "), path


def test_no_python_in_the_gin_folder():
    assert not list((ROOT / "gin").rglob("*.py"))
