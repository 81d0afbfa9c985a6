"""Several processes train what one process trains, stop together, continue each other's runs, and end together.

Processes here have two host devices each and communicate over gloo. The one process they are compared with is this one.
"""

import contextlib
import io
import json
import pathlib
import shutil
import signal
import socket

import jax
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import SingleDeviceSharding
from tensorflow.core.util import event_pb2

from distill import exit_codes
from distill.api import configuration
from distill.checkpoints import conversion
from distill.checkpoints.manager import Checkpoints
from distill.cli import main
from distill.model.parameters import param_shapes
from distill.tools import vocabulary as vocabulary_tool
from distill.training import record, train
from tests.distill import gemma_models
from tests.distill.checkpoints.gemma_flax.written import save, tree_of
from tests_support import read_lines, write_rows, xla_flags

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STEPS, HALF = 8, 4  # the second epoch begins after HALF
T5_SIZES = {"num_encoder_layers": 1, "num_decoder_layers": 1, "embed_dim": 16, "mlp_dim": 16, "num_heads": 2}
# Those of gemma_models, with a window that is shorter than the inputs.
GEMMA_SIZES = {
    "num_layers": 2, "embed_dim": 32, "mlp_dim": 48, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
    "query_pre_attn_scalar": 16.0, "sliding_window": 5, "global_every": 2,
}  # fmt: skip
KILLED_S = 60  # for a process to notice that another was killed; heartbeats may be missing for 10 s


@pytest.fixture(scope="module")
def launched(warm):
    """Starts `distill train` in a number of processes that know of each other; none outlives the context."""

    @contextlib.contextmanager
    def processes(folder, number, arguments, wrapper="telling_command", **environment):
        folder.mkdir()
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{server.getsockname()[1]}"
        together = [f"--coordinator_address={address}", f"--num_processes={number}"]
        started = []
        try:
            for index in range(number):
                given = ["train", *arguments, *together, f"--process_id={index}"]
                log = folder / f"process_{index}.txt"
                started.append(warm.start(given, log, {"XLA_FLAGS": xla_flags(2), **environment}, wrapper))
            yield started
        finally:
            for process in started:
                process.send_signal(signal.SIGKILL)
                process.wait()

    return processes


def finish(processes, code=0):
    """Waits for all of them to exit with ``code``."""
    codes = [process.wait() for process in processes]
    assert codes == [code] * len(processes), "\n".join(process.output for process in processes)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with rows of three splits."""
    folder = tmp_path_factory.mktemp("rows")
    for split, number, start in (("train", 36, 0), ("validation", 4, 36), ("test", 8, 50)):
        write_rows(folder / f"{split}.jsonl", number, start=start)
    return folder


@pytest.fixture(scope="module")
def arguments(rows):
    """The arguments of `distill train` for a model directory and changed bindings."""
    bindings = {
        "FILES": {split: str(rows / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "FIELDS": {"input": "question", "rationale": "why", "label": "answer"},
        "VOCABULARY_PATH": "bytes", "VOCAB_SIZE": 384, "TRAIN_STEPS": STEPS, "EVAL_PERIOD": HALF, "LOG_PERIOD": 1,
        "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "EVAL_BATCH_SIZE": 8,
        "BATCH_SIZE": 8, "DROPOUT_RATE": 0.0, "partitioning.MeshConfig.fsdp": 2, "CHECKPOINT_PERIOD": HALF,
    }  # fmt: skip
    others = ("tasks/jsonl", "runs/distill", "hardware/cpu")

    def given(directory, model="t5_1_1_tiny", **changes):
        sizes = {f"network.T5Config.{name}": size for name, size in T5_SIZES.items()}
        if "gemma" in model:
            sizes = {f"t5gemma_config.StackConfig.{name}": size for name, size in GEMMA_SIZES.items()}
        return [f"--gin_file=gin/{file}.gin" for file in (f"models/{model}", *others)] + [
            f"--gin.{name}={value!r}"
            for name, value in {**bindings, **sizes, "MODEL_DIR": str(directory), **changes}.items()
        ]

    return given


@pytest.fixture(scope="module")
def cached(tmp_path_factory, arguments):
    """What `distill cache` writes of these rows."""
    folder = tmp_path_factory.mktemp("cache")
    assert main.main(["cache", *arguments(folder), f"--output={folder / 'cache'}", "--shards=4"]) == 0
    return folder / "cache"


@pytest.fixture(scope="module")
def four(tmp_path_factory, launched, arguments, rows, cached):
    """The model directory of four processes that trained from a cache to the end, and the processes.

    The file of the training rows is missing meanwhile.
    """
    folder = tmp_path_factory.mktemp("four")
    (rows / "train.jsonl").rename(rows / "away.jsonl")
    try:
        with launched(folder / "output", 4, arguments(folder / "run", CACHE_DIR=str(cached))) as processes:
            finish(processes)
    finally:
        (rows / "away.jsonl").rename(rows / "train.jsonl")
    return folder / "run", processes


@pytest.fixture(scope="module")
def one(tmp_path_factory, arguments):
    """The model directory of one process that trained the same to the end."""
    folder = tmp_path_factory.mktemp("one") / "run"
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        assert main.main(["train", *arguments(folder)]) == 0, output.getvalue()
    (folder.parent / "output.txt").write_text(output.getvalue())
    return folder


def losses(directory):
    """Training loss by step, from the run's TensorBoard files."""
    out = {}
    for path in sorted((directory / "logs").glob("events*")):
        for entry in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(entry)
            for value in event.summary.value:
                if value.tag == "train/loss":
                    out[event.step] = value.simple_value
    return out


def measured(process):
    """Metrics and rows of every evaluation, in the order they were made."""
    return [json.loads(line) for line in process.lines("MEASURED")]


def assert_same_losses(one, other, steps):
    one, other = losses(one), losses(other)
    assert set(steps) <= set(other)
    np.testing.assert_allclose([other[s] for s in steps], [one[s] for s in steps], rtol=1e-5)


def assert_same_parameters(one, other, step=STEPS):
    """Of the newest checkpoints, which must be of ``step``. Needs the configuration of the last run of this process."""
    model = configuration.arguments_of(train.train)["model"]
    here = SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), param_shapes(model))
    found = []
    for directory in (one, other):
        saver = Checkpoints(directory, model)
        saved, params = saver.restore_params(like)
        saver.close()
        assert saved == step
        found.append(jax.device_get(params))  # an operation of NumPy is not compiled for each shape
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(found[0]))
    for wanted, got in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * largest)


def test_four_processes_train_what_one_trains(one, four):
    directory, _ = four
    assert_same_losses(one, directory, range(1, STEPS + 1))
    assert_same_parameters(one, directory)
    assert record.read(directory).data == record.read(one).data


def test_the_padding_is_that_of_all_processes(one, four):
    texts = (one.parent / "output.txt").read_text(), four[1][0].output
    lines = [[line for line in text.splitlines() if "padding" in line and "p99" in line] for text in texts]
    assert lines[0] == lines[1] and len(lines[0]) == 2


def test_processes_check_a_cache_between_them(cached, four):
    shards = [f"jsonl_paired/1.0.0/jsonl_paired-train.array_record-{i:05d}-of-00004" for i in range(4)]
    index = "index/jsonl_paired-train.npy"
    assert [process.lines("CHECKED") for process in four[1]] == [
        [index, shards[3]],
        [shards[0], "input_keys/train.npy"],
        [shards[1]],
        [shards[2]],
    ]


def test_what_one_process_finds_wrong_with_a_cache_ends_all(launched, cached, tmp_path, arguments):
    copy = tmp_path / "cache"
    shutil.copytree(cached, copy)
    damaged = copy / "jsonl_paired" / "1.0.0" / "jsonl_paired-train.array_record-00002-of-00004"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with launched(tmp_path / "output", 2, arguments(tmp_path / "run", CACHE_DIR=str(copy))) as processes:
        finish(processes, 2)
    message = f"distill train: the cache is damaged: {damaged} does not have the SHA-256"
    told = [[line for line in process.output.splitlines() if line.startswith(message)] for process in processes]
    assert told[0] == told[1]
    (line,) = told[0]
    assert line.endswith("build it again (found by process 1 of 2)")
    checked = [{pathlib.PurePath(file).name[-14:] for file in process.lines("CHECKED")} for process in processes]
    assert damaged.name[-14:] in checked[1] - checked[0]


def test_all_processes_measure_the_same_and_only_the_first_writes(four):
    directory, processes = four
    evaluations = [json.loads(line) for line in (directory / "evaluations.jsonl").read_text().splitlines()]
    assert [(e.pop("split"), e.pop("step")) for e in evaluations][:2] == [("validation", HALF), ("validation", STEPS)]
    assert len(evaluations) == 3
    predictions = [json.loads(line) for line in (directory / "predictions" / "test.jsonl").read_text().splitlines()]
    for process in processes:
        assert [metrics for metrics, _ in measured(process)] == evaluations
        assert measured(process) == measured(processes[0])
        assert measured(process)[-1][1] == predictions
    assert len(list((directory / "logs").glob("events*"))) == 1
    assert json.loads((directory / "result.json").read_text())["test"] == evaluations[-1]
    for text in (f"step {STEPS}/{STEPS}", "validation: accuracy", "test accuracy"):
        assert [text in process.output for process in processes] == [True, False, False, False]


def from_half(directory, target):
    """A model directory with nothing in it but the checkpoint halfway."""
    shutil.copytree(directory / "checkpoints" / str(HALF), target / "checkpoints" / str(HALF))
    return target


def test_one_process_goes_on_where_four_were(one, four, tmp_path, arguments):
    again = from_half(four[0], tmp_path / "run")
    assert main.main(["train", *arguments(again, TEST_SPLIT=None)]) == 0
    assert min(losses(again)) == HALF + 1
    assert_same_losses(one, again, range(HALF + 1, STEPS + 1))
    assert_same_parameters(one, again)


def test_two_processes_go_on_where_four_were_and_a_signal_to_one_stops_both(launched, one, four, tmp_path, arguments):
    again = from_half(four[0], tmp_path / "run")
    given = arguments(again, TEST_SPLIT=None, TRAIN_STEPS=100_000, EVAL_PERIOD=100_000, CHECKPOINT_PERIOD=STEPS)
    with launched(tmp_path / "output", 2, given) as processes:
        processes[0].wait_for(f"step {STEPS + 1}/")
        processes[1].send_signal(signal.SIGTERM)
        finish(processes, exit_codes.STOPPED)
    stopped = [line for process in processes for line in process.output.splitlines() if "stopped by SIGTERM" in line]
    assert len(stopped) == 2
    assert stopped[0] == stopped[1]
    assert "SIGTERM: saving" not in processes[0].output
    assert "SIGTERM: saving" in processes[1].output
    last = max(losses(again))
    assert f"at step {last};" in stopped[0]
    assert (again / "checkpoints" / str(last)).is_dir()
    assert min(losses(again)) == HALF + 1
    assert_same_losses(one, again, range(HALF + 1, STEPS + 1))


@pytest.mark.parametrize(
    "form",
    [{"FORM": "mixed"}, {"PACK": False, "FORM": "shared", "EVAL_FORM": "shared_label"}],
    ids=["mixed", "unpacked, one encoder pass"],
)
def test_two_processes_train_what_one_trains_and_stop_as_early(launched, form, tmp_path, arguments):
    changes = {**form, "TRAIN_STEPS": 100_000, "PATIENCE": 1}
    with launched(tmp_path / "output", 2, arguments(tmp_path / "two", **changes)) as processes:
        assert main.main(["train", *arguments(tmp_path / "one", **changes)]) == 0
        finish(processes)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    for result in results:
        del result["seconds"], result["performance"]
    assert results[0] == results[1]
    assert results[0]["stopped"] == "early"
    assert results[0]["step"] >= STEPS
    assert measured(processes[0]) == measured(processes[1])
    assert_same_losses(tmp_path / "one", tmp_path / "two", range(1, STEPS + 1))
    assert_same_parameters(tmp_path / "one", tmp_path / "two", results[0]["step"])


def test_a_callback_of_one_of_two_processes_ends_both_at_the_same_step(launched, tmp_path, arguments):
    given = arguments(tmp_path / "run", TRAIN_STEPS=100_000, EVAL_PERIOD=100_000, TEST_SPLIT=None)
    with launched(tmp_path / "output", 2, given, "stopping_command") as processes:
        finish(processes)
    assert f"{tmp_path / 'run'}: stopped after step 20 by a callback of another process" in processes[0].output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["stopped"], result["step"], result["best_step"]) == ("early", 20, 20)  # they agree every 20 steps
    assert result["reason"] == "a callback of another process"
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A vocabulary with Gemma's special pieces, of the rows' texts."""
    folder = tmp_path_factory.mktemp("words")
    write_rows(folder / "rows.jsonl", 40)
    texts = [text for row in read_lines(folder / "rows.jsonl") for text in row.values()]
    (folder / "words.model").write_bytes(vocabulary_tool.train(texts, 300, special="gemma"))
    return str(folder / "words.model")


def test_two_processes_train_a_t5gemma_with_adapters_as_one_does_also_after_a_restart(
    launched, words, tmp_path, arguments
):
    """Packed rows of both tasks. It starts from Flax files, of whose arrays each process reads its shards; adapters and
    all parameters but a token table are trained."""
    model = gemma_models.build("t5gemma", vocab_size=384, num_hidden_layers=1)
    save(tree_of(model, ("decoder",)), tmp_path / "flax")
    changes = {
        "model": "t5gemma_s", "VOCABULARY_PATH": words, "LORA_RANK": 2,
        "FROZEN": ("decoder_token_embedder",),
        "INITIAL_CHECKPOINT_PATH": str(tmp_path / "flax"), "EVAL_PERIOD": 100_000, "TEST_SPLIT": None,
        "t5gemma_config.StackConfig.num_layers": 1,
    }  # fmt: skip
    first = arguments(tmp_path / "two", **changes, TRAIN_STEPS=HALF)
    with launched(tmp_path / "output", 2, first) as processes:
        assert main.main(["train", *arguments(tmp_path / "one", **changes)]) == 0
        finish(processes)
    with launched(tmp_path / "again", 2, arguments(tmp_path / "two", **changes)) as processes:  # of a finished run
        finish(processes)
    assert "trained (LoRA of rank 2)" in processes[0].output
    assert_same_losses(tmp_path / "one", tmp_path / "two", range(1, STEPS + 1))
    assert_same_parameters(tmp_path / "one", tmp_path / "two")
    table, query = "decoder_token_embedder/embedding", "decoder/layers_0/self_attention/query/kernel"
    with conversion.open_source(tmp_path / "flax") as start, conversion.open_source(tmp_path / "two") as end:
        before, after = ({name: one.checkpoint.tensors[name].read() for name in (table, query)} for one in (start, end))
    np.testing.assert_array_equal(after[table], before[table])
    assert np.abs(after[query] - before[query]).max() > 1e-3


def test_two_processes_train_a_t5gemma_2_as_one_does(launched, words, tmp_path, arguments):
    """Merged attention in scanned layers. Each process has a part of the one token table, and reads it from a folder as
    transformers writes it."""
    steps = 10  # after which the table has moved by more than 1e-3
    gemma_models.save(gemma_models.build("t5gemma2", vocab_size=384), tmp_path / "hf")
    changes = {
        "model": "t5gemma2_270m", "VOCABULARY_PATH": words, "INITIAL_CHECKPOINT_PATH": str(tmp_path / "hf"),
        "TRAIN_STEPS": steps, "EVAL_PERIOD": 100_000, "TEST_SPLIT": None, "SCAN_LAYERS": True,
        "partitioning.MeshConfig.model": 2, "t5gemma_config.StackConfig.num_layers": 3,
        "t5gemma_config.StackConfig.global_every": 3, "decoder/t5gemma_config.StackConfig.num_kv_heads": 1,
        "t5gemma_config.T5GemmaConfig.rope_base_local": 100.0, "t5gemma_config.T5GemmaConfig.rope_base_global": 1000.0,
        "t5gemma_config.T5GemmaConfig.rope_scale_global": 2.0,
    }  # fmt: skip
    with launched(tmp_path / "output", 2, arguments(tmp_path / "two", **changes)) as processes:
        assert main.main(["train", *arguments(tmp_path / "one", **changes)]) == 0
        finish(processes)
    assert_same_losses(tmp_path / "one", tmp_path / "two", range(1, steps + 1))
    assert_same_parameters(tmp_path / "one", tmp_path / "two", steps)
    table = "token_embedder/embedding"
    with conversion.open_source(tmp_path / "hf") as start, conversion.open_source(tmp_path / "two") as end:
        before, after = (one.checkpoint.tensors[table].read() for one in (start, end))
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("victim", [1, 0], ids=["the other", "the first"])
def test_a_killed_process_ends_the_run_with_an_error(launched, victim, tmp_path, arguments):
    never = dict.fromkeys(("TRAIN_STEPS", "EVAL_PERIOD", "CHECKPOINT_PERIOD"), 100_000)
    given = [*arguments(tmp_path / "run", TEST_SPLIT=None, **never), "--heartbeat_timeout_seconds=10"]
    with launched(tmp_path / "output", 2, given) as processes:
        processes[0].wait_for("step 5/")
        processes[victim].send_signal(signal.SIGKILL)
        survivor = processes[1 - victim]
        assert survivor.wait(KILLED_S) not in (0, exit_codes.STOPPED), survivor.output
    assert "another task died" in survivor.output


@pytest.mark.parametrize("method", ["restore", "save"])
def test_a_process_that_is_killed_in_a_save_or_a_restore_damages_no_checkpoint(
    launched, four, method, tmp_path, arguments
):
    again = from_half(four[0], tmp_path / "run")
    given = [*arguments(again, TEST_SPLIT=None, EVAL_PERIOD=100_000), "--heartbeat_timeout_seconds=10"]
    with launched(tmp_path / "output", 2, given, "dying_command", DIES=method) as processes:
        survivor = processes[0]
        assert survivor.wait(KILLED_S) == exit_codes.MACHINE, survivor.output
    steps = again / "checkpoints"
    line = [line for line in survivor.output.splitlines() if line.startswith("distill train: ")][-1]
    assert line.startswith("distill train: another process of the run has ended or no longer answers (")
    assert line.endswith(
        f"step {HALF} is the newest complete checkpoint in {steps}: start all processes again, and the run continues from "
        f"step {HALF}"
    )
    assert "Traceback" not in survivor.output
    assert (steps / str(HALF)).is_dir() and not (again / "damaged").exists()


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon"])
def test_the_heartbeat_timeout_is_a_whole_number(given, capsys):
    with pytest.raises(SystemExit):
        main.main(["train", f"--heartbeat_timeout_seconds={given}"])
    message = f"--heartbeat_timeout_seconds: must be a whole number ≥ 1; got {given!r}"
    assert message in capsys.readouterr().err
