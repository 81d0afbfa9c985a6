"""Every shipped T5X configuration parses, resolves, and builds the arguments of T5X's scripts."""

import pathlib
import sys

import gin
import pytest
import t5x.eval
import t5x.infer
import t5x.train
from t5x import gin_utils

from distill.data.features import TwoTaskFeatureConverter
from distill.t5x.model import ProjectNetworkModel, TwoTaskModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = sorted(path.stem for path in (ROOT / "gin/t5x/models").glob("*t5_1_1_*.gin"))
TASKS = ["anli1", "cqa", "esnli", "svamp"]
RUNS = {"train": t5x.train.train, "eval": t5x.eval.evaluate, "infer": t5x.infer.infer}
GIVEN = {
    "train": ["MODEL_DIR"],
    "eval": ["CHECKPOINT_PATH", "EVAL_OUTPUT_DIR"],
    "infer": ["CHECKPOINT_PATH", "INFER_OUTPUT_DIR"],
}


@pytest.fixture(autouse=True)
def forget(monkeypatch, paper_data, t5_vocabulary_path):
    """A clean configuration, at the checkout's root, with T5X's script as __main__."""
    monkeypatch.chdir(ROOT)
    for function in RUNS.values():
        monkeypatch.setattr(sys.modules["__main__"], function.__name__, function, raising=False)
    # Both of T5X's networks are called network.T5Config; a process that runs T5X knows only one of them.
    monkeypatch.setattr(gin.config, "_REGISTRY", gin.config._REGISTRY.copy())
    monkeypatch.setattr(gin.config, "_INVERSE_REGISTRY", gin.config._INVERSE_REGISTRY.copy())
    gin.clear_config()
    yield
    gin.clear_config()


def arguments(files, run, paper_data, t5_vocabulary_path, extra=()):
    """The arguments that the configuration gives the run's function, all built."""
    bindings = [f'DATA_DIR = "{paper_data}"', f'VOCABULARY_PATH = "{t5_vocabulary_path}"']
    bindings += [f'{name} = "/nowhere/checkpoint_10"' for name in GIVEN[run]]
    paths = [".", str(pathlib.Path(t5x.__file__).parents[1])]
    # T5X's own run files reset the lengths, so the task's file goes last.
    ordered = [*files[:-1], f"gin/t5x/runs/{run}.gin", files[-1]]
    gin_utils.parse_gin_flags(paths, ordered, [*bindings, *extra], finalize_config=False)
    return gin.get_bindings(gin.get_configurable(RUNS[run]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", ["small", "base", "large", "xl", "xxl"])
def test_t5_1_1_of_every_size_on_every_task(size, task, paper_data, t5_vocabulary_path):
    files = [f"gin/t5x/models/t5_1_1_{size}.gin", f"gin/tasks/{task}.gin"]
    pretrained = ['INITIAL_CHECKPOINT_PATH = "/nowhere/checkpoint_1000000"', "TRAIN_STEPS_RELATIVE = 7"]
    got = arguments(files, "train", paper_data, t5_vocabulary_path, pretrained)
    assert isinstance(got["model"], TwoTaskModel)
    assert got["model"].FEATURE_CONVERTER_CLS is TwoTaskFeatureConverter
    assert got["total_steps"] == 1_000_007
    assert got["relative_steps"] is None
    assert got["train_dataset_cfg"].mixture_or_task_name == f"{task}_paired"
    assert got["infer_eval_dataset_cfg"].mixture_or_task_name == f"{task}_label"
    assert got["train_dataset_cfg"].trim_output_features is False
    assert got["trainer_cls"].__name__ == "TwoTaskTrainer"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("run", list(RUNS))
def test_every_model_in_every_run(model, run, paper_data, t5_vocabulary_path):
    got = arguments([f"gin/t5x/models/{model}.gin", "gin/tasks/svamp.gin"], run, paper_data, t5_vocabulary_path)
    assert isinstance(got["model"], TwoTaskModel)
    assert got["model"].module.config.num_encoder_layers > 0
    if run != "train":
        assert got["dataset_cfg"].mixture_or_task_name == "svamp_label"
        assert got["dataset_cfg"].task_feature_lengths == {"inputs": 512, "targets": 48}


def test_the_projects_network(paper_data, t5_vocabulary_path):
    files = ["gin/models/t5_1_1_small.gin", "gin/t5x/models/project_network.gin", "gin/tasks/svamp.gin"]
    got = arguments(files, "train", paper_data, t5_vocabulary_path, ["LAMBDA = 0.5", "NUM_MICROBATCHES = 2"])
    assert isinstance(got["model"], ProjectNetworkModel)
    assert got["model"].config.embed_dim == 512
    assert got["model"].loss.lam == 0.5


def test_beam_search_and_scores(paper_data, t5_vocabulary_path):
    files = ["gin/t5x/models/t5_1_1_small.gin", "gin/t5x/models/beam_search.gin", "gin/tasks/svamp.gin"]
    got = arguments(files, "infer", paper_data, t5_vocabulary_path, ['infer.mode = "score"', "NUM_BEAMS = 3"])
    assert got["mode"] == "score"
    assert got["model"].decode_fn.__name__ == "beam_search"
    assert got["model"]._default_decoder_params.num_decodes == 3
    assert got["checkpoint_ds_iter"] is False


def test_partitions_by_flag(paper_data, t5_vocabulary_path):
    files = ["gin/t5x/models/t5_1_1_tiny.gin", "gin/tasks/svamp.gin"]
    extra = ["partitioning.PjitPartitioner.num_partitions = None"]
    extra += ["partitioning.PjitPartitioner.model_parallel_submesh = (1, 4, 1, 1)"]
    got = arguments(files, "train", paper_data, t5_vocabulary_path, extra)
    assert dict(got["partitioner"].mesh.shape) == {"data": 2, "model": 4}


@pytest.mark.parametrize("restart", [True, False])
def test_exact_restart_and_its_cache(restart, paper_data, t5_vocabulary_path):
    from distill.t5x import data

    paths = [".", str(pathlib.Path(t5x.__file__).parents[1])]
    bindings = [f'DATA_DIR = "{paper_data}"', f'VOCABULARY_PATH = "{t5_vocabulary_path}"', 'MODEL_DIR = "/nowhere"']
    files = ["gin/t5x/models/t5_1_1_small.gin", "gin/t5x/runs/train.gin"]
    files += ["gin/t5x/runs/exact_restart.gin"] if restart else []
    bindings += ['CACHE_DIR = "/nowhere/cache"']
    gin_utils.parse_gin_flags(paths, [*files, "gin/tasks/svamp.gin"], bindings, finalize_config=False)
    got = gin.get_bindings(gin.get_configurable(t5x.train.train))
    wanted = data.get_stream if restart else data.get_dataset
    assert got["get_dataset_fn"].__name__ == wanted.__name__
    assert got["checkpoint_cfg"].save.save_dataset is restart
    assert got["train_dataset_cfg"].seed == (0 if restart else None)
    message = "/nowhere/cache holds no finished cache" if restart else "CACHE_DIR = '/nowhere/cache'. Add --gin_file"
    with pytest.raises(ValueError, match=message):
        got["get_dataset_fn"](got["train_dataset_cfg"], 0, 1, TwoTaskFeatureConverter)


@pytest.mark.parametrize("path", sorted((ROOT / "gin/t5x").rglob("*.gin")), ids=lambda path: path.stem)
def test_headers_name_the_step_settings(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    if path.parent.name == "runs" and path.stem != "tasks":
        assert "relative steps" in text or "TRAIN_STEPS_RELATIVE" in text
        assert "python -m t5x" in text or path.stem == "exact_restart"
