"""Mistakes are found without TensorFlow and JAX, in the words of the commands that import them."""

import subprocess
import sys

import pytest

from distill.api import configuration, first_checks
from distill.api.gin_files import ConfigurationError
from distill.tasks.records import SourceError

FILES = [f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")]


@pytest.fixture(autouse=True)
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "qa.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "none.jsonl").write_text("\n")
    (tmp_path / "words.model").touch()


def check(*bindings, files=FILES, **more):
    given = [
        "MODEL_DIR = 'runs/a'",
        "TEST_SPLIT = None",
        "VOCABULARY_PATH = 'words.model'",
        "FILES = {'train': 'train.jsonl'}",
        *bindings,
    ]
    first_checks.check(files, given, **{"trains": True} | more)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("VOCABULARY_PATH = 'wrds.model'", "no vocabulary at wrds.model (expected t5, mt5, bytes, or the path of a"),
        ("VOCABULARY_PATH = byte", "no vocabulary at byte; did you mean 'bytes'?"),
        ("FILES = {'train': 'trian.jsonl'}", "trian.jsonl is missing (rows of split train); train.jsonl is there"),
        ("FILES = {'train': ['train.jsonl', 'rows-*.jsonl']}", "no file matches rows-*.jsonl (rows of split train)"),
        ("FILES = {'train': 'none.jsonl'}", "none.jsonl: it has no rows (rows of split train)"),
        (
            "FILES = {'train': 'train.jsonl', 'validation': 'vld.jsonl'}",
            "vld.jsonl is missing (rows of split validation)",
        ),
        (
            "TRAIN_STEPS = abc",
            "TRAIN_STEPS (set in the command line), as train.LoopConfig.train_steps: expected int; got 'abc'",
        ),
        ("FORM = piared", "FORM (set in the command line), as names.task_name.form: form must be one of ('label', "),
        ("FORM = piared", "did you mean 'paired'?"),
        ("NORMALIZER = all_token", "did you mean 'all_tokens'?"),
        ("ON_NONFINITE = 'skp'", "on_nonfinite must be one of ('stop', 'skip'); got 'skp'; did you mean 'skip'?"),
        ("PARAM_GATHER = 'stpe'", "did you mean 'step'?"),
        ("LABEL_SOURCE = 'techer'", "expected one of 'gold', 'teacher'; got 'techer' (str); did you mean 'teacher'?"),
        ("ANSWER = 'txt'", "did you mean 'text'?"),
        ("DTYPE = 'float23'", "did you mean 'float32'?"),
        (
            "train.LoopConfig.log_period = 2.5",
            "train.LoopConfig.log_period (set in the command line): expected int; got 2.5",
        ),
        ("INITIAL_CHECKPOINT_PATH = '/nowhere/at/all'", "no checkpoint at /nowhere/at/all"),
        ("TRAIN_STEPS = -5", "as train.LoopConfig.train_steps: train_steps must be ≥ 1; got -5"),
        ("LAMBDA = -1", "LAMBDA (set in the command line), as losses.TwoTaskLoss.lam: lam must be ≥ 0 or None; got -1"),
        ("ALPHA = 1.5", "alpha must be in [0, 1] or None; got 1.5"),
        ("BATCH_SIZE = 0", "as train.DataConfig.batch_size: batch_size must be ≥ 1; got 0"),
        ("EVAL_PERIOD = 0", "as train.ValidationConfig.period: period must be ≥ 1; got 0"),
        ("PATIENCE = 0", "patience must be ≥ 1 or None; got 0"),
        ("VALIDATION_EXAMPLES = -1", "max_examples must be ≥ 1 or None; got -1"),
        ("LEARNING_RATE = -1.0", "LEARNING_RATE (set in the command line), as optimizers.adafactor.learning_rate: "),
        ("optimizers.adafactor.clip_norm = 0.0", "clip_norm must be > 0 or None; got 0.0"),
        ("RANDOM_SEED = -1", "seed must be ≥ 0; got -1"),
        ("EMA_DECAY = 1.0", "ema_decay must be in (0, 1) or None; got 1.0"),
        ("CHECKPOINT_KEEP = 0", "as checkpoints.CheckpointConfig.keep: keep must be ≥ 1; got 0"),
        ("MAX_DECODE_LEN = 0", "as evaluate.DecodeConfig.max_decode_len: max_decode_len must be ≥ 1; got 0"),
        ("SUBSAMPLE = 2.0", "subsample must be in (0, 1]; got 2.0"),
        ("LABEL_RATE = -1.0", "label_rate must be a finite number ≥ 0; got -1.0"),
        ("MAX_RATIONALES = 0", "max_rationales must be ≥ 1 or None; got 0"),
        ("LORA_RANK = 0", "lora_rank must be an integer ≥ 1; got 0"),
        ("network.T5Config.num_heads = 0", "num_heads must be an integer ≥ 1; got 0"),
        ("partitioning.MeshConfig.data = 0", "data must be an integer ≥ 1 or -1; got 0"),
        ("TASK_FEATURE_LENGTHS = {'inputs': 8}", "must name exactly 'inputs' and 'targets'; got ['inputs']"),
        ("TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 0}", "['targets'] must be an integer ≥ 1; got 0"),
        (
            "FILES = 'train.jsonl'",
            "FILES must map splits to files, as {'train': 'train.jsonl'}; got 'train.jsonl' (set in",
        ),
        ("FILES = ['train.jsonl']", "as {'train': ['train.jsonl']}; got ['train.jsonl'] (set in the command line)"),
        (
            "FILES = {'train': 3}",
            "FILES['train'] must be a path, a pattern such as 'rows-*.jsonl', or a list of them; ",
        ),
        (
            "FILES = {}",
            "no files were given; expected a mapping like {'train': 'rows.jsonl'} (set in the command line)",
        ),
        ("FIELDS = {'inptu': 'question'}", "FIELDS: a record has no field 'inptu'; did you mean 'input'?"),
        (
            "FIELDS = 'question'",
            "as {'input': 'question', 'label': 'answer'}; got 'question' (set in the command line)",
        ),
        (
            "FIELDS = {'label': 'lable'}",
            "no row has the field 'lable' that 'label' is mapped to; did you mean 'label'?",
        ),
        ("FIELDS = {'label': 3}", "FIELDS['label'] must be the name of a field or a template; got 3"),
        (
            "MODEL_DIR = '/proc/x/y'",
            "MODEL_DIR=/proc/x/y cannot be made in /proc: No such file or directory; give a",
        ),
        ("MODEL_DIR = 'qa.jsonl/x'", "qa.jsonl is a file; give the path of a new folder"),
        (
            "evaluate.DecodeConfig.choices = 7",
            "evaluate.DecodeConfig.choices (set in the command line): expected tuple[str or int or float, ...] or ",
        ),
        (
            "evaluate.DecodeConfig.choices = ['a', None]",
            "expected tuple[str or int or float, ...] or list[str or int or float]; got ['a', None] (list)",
        ),
        (
            "evaluate.DecodeConfig.choices = ['1', 1]",
            "expected a list of two or more different texts, such as ['yes', 'no']; got ['1', 1]: choices[0] and "
            "choices[1] are the same text, '1'",
        ),
        (
            "evaluate.DecodeConfig.choices = ['a', 'b']",
            "evaluate.DecodeConfig.choices (set in the command line) changes nothing without "
            "evaluate.DecodeConfig.answers='choose'; set it, too",
        ),
        (
            "evaluate.DecodeConfig.answers = choose",
            "train.jsonl: no row has choices, which DecodeConfig.answers='choose' takes the answers of split 'validation' "
            "from; name their field, FIELDS={'choices': 'FIELD'} (the rows have: input, label), or give those of all ",
        ),
        ("TRIAN_STEPS = 3", "nothing uses TRIAN_STEPS (set in the command line); did you mean 'TRAIN_STEPS'"),
        ("train.LoopConfig.log_perod = 3", "train.LoopConfig has no argument 'log_perod'; did you mean 'log_period'?"),
    ],
)
def test_a_mistake_is_one_line(binding, message):
    with pytest.raises((ValueError, OSError)) as caught:
        check(binding)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "{'input': 'question'}",
            "no row has a label, llm_label or rationale to train on; FIELDS maps the fields of a ",
        ),
        ("{'input': 'question'}", "as {'label': 'FIELD', 'rationale': 'FIELD'} (the rows have: answer, question)"),
        ("{'label': 'answer'}", "no row has the field 'input'; FIELDS maps"),
    ],
)
def test_fields_that_a_mapping_lacks(fields, message):
    with pytest.raises(SourceError) as caught:
        check("FILES = {'train': 'qa.jsonl'}", f"FIELDS = {fields}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_range_that_another_setting_bounds(tmp_path):
    """The quickstart's warm-up is longer than 20 steps; a schedule that is replaced is not checked."""
    recipe, given = ["gin/recipes/quickstart.gin"], ["MODEL_DIR = 'runs/a'", "TRAIN_STEPS = 20"]
    with pytest.raises(ConfigurationError) as caught:
        first_checks.check(recipe, given)
    assert str(caught.value).startswith("WARMUP_STEPS (set in gin/recipes/quickstart.gin:")
    assert str(caught.value).endswith(
        ", as optimizers.linear_decay.warmup_steps: warmup_steps must be in [0, TRAIN_STEPS=20); got 50"
    )
    first_checks.check(recipe, [*given, "WARMUP_STEPS = 2"])
    first_checks.check(recipe, [*given, "LEARNING_RATE = 1e-3"])
    with pytest.raises(ConfigurationError) as caught:
        first_checks.check(recipe, [given[0], "TRAIN_STEPS = 0"])
    assert "train_steps must be ≥ 1; got 0" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_right_or_is_checked_later_passes(tmp_path):
    check()
    check(
        "FILES = {'train': 'tr*.jsonl'}", "VOCABULARY_PATH = 't5'", "INITIAL_CHECKPOINT_PATH = 'google/t5-v1_1-small'"
    )
    check(
        "registration.register.vocabulary = 5"
    )  # a type of another package is checked when the configuration is parsed
    check("FILES = {'train': 'qa.jsonl'}", "FIELDS = {'input': 'question', 'label': 'answer'}")
    check("FILES = {'train': 'gs://bucket/rows.jsonl'}", "VOCABULARY_PATH = gs://bucket/words.model")
    check("FILES = {'train': 'missing.jsonl'}", "CACHE_DIR = 'cached'")
    check("FILES = {'train': 'missing.jsonl'}", trains=False)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.gin").touch()
    check("FILES = {'train': 'missing.jsonl'}")  # a run that has begun says itself what it lacks


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": "rows.jsonl"},
            "FILES has no split 'test', which TEST_SPLIT scores at the end; it has train: add \"test\": ",
        ),
        (
            {"train": "rows.jsonl", "tset": "rows.jsonl"},
            "rename 'tset' to 'test' in FILES, or give --gin.TEST_SPLIT=None",
        ),
        ({"test": "rows.jsonl"}, "FILES has no split 'train', whose rows are trained on; it has test: add \"train\": "),
        ({"train": "rosw.jsonl"}, "rosw.jsonl is missing (rows of split train)"),
        ({"train": "none.jsonl"}, "none.jsonl: it has no rows"),
        ({"train": "other.jsonl"}, "other.jsonl: no row has the field 'input'"),
    ],
)
def test_splits_that_files_lack_are_named_after_worse_mistakes(tmp_path, files, message):
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "other.jsonl").write_text('{"question": "a", "label": "b"}\n')
    with pytest.raises((ConfigurationError, FileNotFoundError, SourceError)) as caught:
        check(f"FILES = {files}", "TEST_SPLIT = 'test'")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    check(f"FILES = {files | {'train': 'rows.jsonl', 'test': 'rows.jsonl'}}", "TEST_SPLIT = 'test'")
    check("FILES = {'train': 'rows.jsonl'}", "TEST_SPLIT = 'test'", "train.train.validation = None")


def test_a_split_to_score_is_one_that_has_rows():
    for split in ("train", "validation"):
        check(trains=False, evaluates=split)
    with pytest.raises(
        ConfigurationError,
        match=r"^--split: FILES has no split 'tset'; it has train, validation; add .tset.: .FILE.jsonl. to FILES$",
    ):
        check(trains=False, evaluates="tset")
    with pytest.raises(ConfigurationError, match="did you mean 'test'"):
        check("FILES = {'test': 'train.jsonl'}", trains=False, evaluates="tset")


def test_choices_of_the_rows_that_are_scored(tmp_path):
    (tmp_path / "chosen.jsonl").write_text('{"input": "a", "label": "b", "options": ["b", 7]}\n')
    files = "FILES = {'train': 'train.jsonl', 'test': 'chosen.jsonl'}"
    choose = ["evaluate.DecodeConfig.answers = choose", files]
    test = {"trains": False, "evaluates": "test"}
    check(*choose, "FIELDS = {'choices': 'options'}", **test)
    with pytest.raises(
        SourceError, match=r"chosen\.jsonl: no row has choices.* \(the rows have: input, label, options\)"
    ):
        check(*choose, **test)
    with pytest.raises(
        SourceError, match=r"has the field 'optiosn' that 'choices' is mapped to; did you mean 'options'"
    ):
        check(*choose, "FIELDS = {'choices': 'optiosn'}", **test)
    check(*choose, "evaluate.DecodeConfig.choices = ['b', 7]", **test)
    check(
        *choose, "FILES = {'train': 'train.jsonl', 'test': 'elsewhere.jsonl'}", **test
    )  # found in the training's folder
    check(*choose, "TEST_SPLIT = 'test'", "train.train.validation = None")
    cached = ["CACHE_DIR = 'cached'", "TEST_SPLIT = 'test'", "FIELDS = {'choices': 'options'}"]
    check(*choose, *cached, "FILES = {'test': 'chosen.jsonl'}")  # no file gives its validation rows
    check(files, **test)


def test_macros_that_the_command_provides_need_not_be_set():
    with pytest.raises(ConfigurationError, match="MODEL_DIR is used by"):
        first_checks.check(FILES, ["FILES = {'train': 'train.jsonl'}"])
    first_checks.check(FILES, ["FILES = {'train': 'train.jsonl'}"], provided=("MODEL_DIR",))
    with pytest.raises(ConfigurationError, match="no gin file was given"):
        first_checks.check([], [], provided=("MODEL_DIR",))


def test_files_of_the_quickstart_come_from_a_command():
    with pytest.raises(FileNotFoundError, match="`distill example --output=rows` writes the rows"):
        first_checks.check(["gin/recipes/quickstart.gin"], ["MODEL_DIR = 'runs/a'"], trains=True)


def test_the_full_check_finds_the_same_arguments():
    with pytest.raises(ConfigurationError, match=r"^train\.LoopConfig\.log_perod \(set in the command line\): "):
        configuration.parse(FILES, ["MODEL_DIR = 'm'", "FILES = {'train': 'a'}", "train.LoopConfig.log_perod = 3"])


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--gin_file=gin/recipes/quickstrat.gin"],
        ["train", "--gin_file=gin/recipes/quickstart.gin", "--gin.MODEL_DIR=a"],
        ["train", "--gin_file=gin/recipes/quickstart.gin", "--gin.MODEL_DIR=a", "--gin.train.LoopConfig.lgo=1"],
        ["config", "--gin_file=gin/recipes/quickstart.gin", "--gin.TRIAN_STEPS=1"],
        ["config", "--gin_file=gin/recipes/quickstart.gin", "--gin.TRAIN_STEPS=-5"],
        ["sweep", "gin/sweeps/demo_rates.yaml", "--gin.TRIAN_STEPS=1"],
        ["infer", "--model_dir=none", "--input=train.jsonl", "--output=b"],
        ["export", "--model_dir=.", "--output=b"],
        ["eval"],
    ],
    ids=lambda words: words[0],
)
def test_neither_tensorflow_nor_jax_is_imported(words):
    program = (
        "import sys, time\nfrom distill.cli import main\ncode = main.main(sys.argv[1:])\n"
        "print(code, time.process_time(), sorted({'jax', 'tensorflow', 'flax', 'seqio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    code, seconds, modules = done.stdout.strip().split(" ", 2)
    assert (code, modules) == ("2", "[]"), done.stderr
    assert float(seconds) < 2.0
    assert len(done.stderr.splitlines()) == 1
