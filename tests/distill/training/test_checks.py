"""Each check of a run's arguments, with the run of the other tests and one change."""

import dataclasses
import functools

import pytest

from distill.data import cache, token_batches
from distill.inference.decoder import DecodeConfig
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.sharding import partitioning
from distill.tasks import jsonl, registration
from distill.tools import vocabulary
from distill.training import checks, record, train
from distill.training.config import DataConfig, TokenBatchesConfig, ValidationConfig
from tests_support import write_lines, write_rows


def test_the_arguments_of_a_run_pass(arguments):
    assert checks.check(**arguments) is None


def test_initial_parameters_of_a_run_that_is_not_complete_have_a_warning(tmp_path):
    assert checks.unfinished_initial(None) is None and checks.unfinished_initial(str(tmp_path)) is None
    (tmp_path / "config.gin").touch()
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    found = checks.unfinished_initial(str(tmp_path))
    assert found.startswith(
        f"INITIAL_CHECKPOINT_PATH: the run in {tmp_path} is not complete: its newest saved step is 7"
    )


def changed(arguments, **changes):
    return {**arguments, **{name: dataclasses.replace(arguments[name], **value) for name, value in changes.items()}}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": {"split": "trian"}}, r"no split 'trian'; it has test, train, validation"),
        ({"data": {"mixture_or_task_name": "absent"}}, "absent"),
        ({"validation": {"metric": "acuracy"}}, "acuracy"),
        ({"validation": {"test_split": "exam"}}, "no split 'exam'"),
        ({"model": {"vocab_size": 100}}, r"has \d+ ids, .*vocab_size is 100"),
        ({"loop": {"num_microbatches": 3}}, "3"),
        ({"loss": {"mutual_information": 0.1}}, r"MUTUAL_INFORMATION=0\.1 compares both targets.*set FORM=shared"),
    ],
)
def test_one_wrong_argument(arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        checks.check(**changed(arguments, **changes))


def test_a_batch_that_the_mesh_does_not_divide(arguments):
    with pytest.raises(ValueError, match="8"):
        checks.check(**{**changed(arguments, data={"batch_size": 4}), "mesh": partitioning.MeshConfig(8, 1, 1)})


def test_metrics_of_the_caller_are_checked_too(arguments):
    with pytest.raises(ValueError, match="rouge9"):
        checks.check(**arguments, metrics=("rouge9",))


def test_choices_of_every_row_are_checked(arguments, sums):
    decode = DecodeConfig(answers="choose", choices=[str(number) for number in range(11)])
    assert checks.check(**changed(arguments, validation={"decode": decode})) is None
    long = dataclasses.replace(decode, choices=(*decode.choices, "9" * 512))
    with pytest.raises(
        ValueError, match=r"task 'sums_label', split 'validation', row '.*' \(.*\.jsonl:1\): a choice has more than 512"
    ):
        checks.check(**changed(arguments, validation={"decode": long}))


def test_initial_weights_that_are_not_there(arguments, tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        checks.check(**arguments, initial_checkpoint_path=str(tmp_path / "nowhere"))


def test_a_single_target_is_not_scored_as_a_label_nor_the_reverse(arguments, sums):
    data, validation = {"mixture_or_task_name": sums.single}, {"task_name": sums.single}
    with pytest.raises(
        ValueError, match=rf"'{sums.single}' is trained on and '{sums.label}' evaluated.*EVAL_FORM=single"
    ):
        checks.check(**changed(arguments, data=data))
    with pytest.raises(ValueError, match=rf"'{sums.single}' evaluated, .*: set EVAL_FORM=label"):
        checks.check(**changed(arguments, validation=validation))
    checks.check(**changed(arguments, data=data, validation=validation))


def test_initial_weights_of_another_vocabulary(arguments, tmp_path, monkeypatch):
    """The run of the tests reads bytes."""
    monkeypatch.setattr(checks.initial, "kind_of", lambda path: "Hugging Face")
    (tmp_path / "spiece.model").write_bytes(vocabulary.train(["the cat sat on the mat"] * 9, 20))
    with pytest.raises(ValueError, match="another vocabulary: SentencePiece there, bytes here; set VOCABULARY_PATH="):
        checks.check(**arguments, initial_checkpoint_path=str(tmp_path))


def test_rows_and_vocabulary(arguments, sums):
    checks.check_rows(sums.paired, "train")
    checks.check_vocabulary(sums.paired, arguments["model"])
    with pytest.raises(ValueError, match=rf"'{sums.paired}' has no split 'dev'"):
        checks.check_rows(sums.paired, "dev")


def test_a_t5gemma_network_needs_the_bos_that_it_starts_with(arguments, sums):
    stack = StackConfig(1, 16, 16, 2, 1, 8, 8, 4, 2)
    model = T5GemmaConfig(2, 384, stack, stack)
    with pytest.raises(
        ValueError, match=rf"the vocabulary of '{sums.paired}': expected BOS with id 2, .*it has none: set"
    ):
        checks.check_vocabulary(sums.paired, model)


def test_token_windows_need_a_vocabulary_that_the_student_has_and_no_validation_task(arguments, tmp_path):
    path = tmp_path / "windows.npz"
    token_batches.write(path, arguments["data"].stream(0), 1)
    given = arguments | {"data": TokenBatchesConfig(str(path), 4)}
    with pytest.raises(ValueError, match=r"validation decodes a registered task \('sums_label'\).*validation=None"):
        checks.check(**given)
    given["validation"] = None
    assert checks.check(**given) is None
    with pytest.raises(ValueError, match=r"windows\.npz holds the token id \d+, .*vocab_size is 100"):
        checks.check(**changed(given, model={"vocab_size": 100}))
    with pytest.raises(ValueError, match="MUTUAL_INFORMATION"):
        checks.check(**changed(given, loss={"mutual_information": 0.1}))


def test_rows_that_are_trained_on_are_counted(tmp_path):
    def warnings(test, cached=False, **changed):
        rows = {"train": ["1?", "2?", "2?"], "validation": ["3?"], "test": test}
        for split, inputs in rows.items():
            write_lines(
                tmp_path / f"{split}.jsonl", [{"input": text, "label": "1", "rationale": "w"} for text in inputs]
            )
        names = registration.register(
            jsonl.dataset({split: tmp_path / f"{split}.jsonl" for split in rows}, name="seen"), "bytes"
        )
        data = DataConfig(names.paired, {"inputs": 64, "targets": 64}, batch_size=4)
        if cached:
            data = dataclasses.replace(data, cache_dir=str(tmp_path / "cache"))
            cache.build([names.paired], data.cache_dir)
            (tmp_path / "train.jsonl").unlink()
            registration.call_of(names.paired)()  # forgets the rows that it has read
        counts.append(checks.seen_rows(data, data.stream(0), ValidationConfig(names.label, **changed)))
        return checks.seen_warnings(counts[-1], data)

    counts = []
    assert warnings(["4?"]) == []
    (found,) = warnings(["  2? ", "4?", "1?"])
    assert found.startswith(
        "2 of 3 rows of split 'test' have the input of a training row, so the score is not that of unseen"
    )
    (found,) = warnings(["1?"])
    assert found.startswith("1 of 1 rows of split 'test' has the input")
    assert counts == [{"validation": (0, 1), "test": (0, 1)}, {"validation": (0, 1), "test": (2, 3)}, counts[2]]
    assert warnings(["1?"], split="test", test_split="train", max_examples=1) == [found]
    assert counts[-1] == {"test": (1, 1), "train": (3, 3)}, (
        "the split that is trained on is counted, and warned of by none"
    )
    (first,) = warnings(["4?", "1?", "2?"], split="test", test_split=None, max_examples=2)
    assert first.startswith("1 of 2 rows"), "of the rows that are scored"
    assert warnings(["1?"], cached=True) == [found]


def test_a_cache_is_checked_in_place_of_the_rows(tmp_path, arguments, sums):
    given = changed(arguments, data={"cache_dir": str(tmp_path / "cache")})
    with pytest.raises(ValueError, match=r"holds no finished cache"):
        checks.check(**given)
    cache.build([sums.paired], tmp_path / "cache")
    write_rows(tmp_path / "train.jsonl", 41)
    with pytest.raises(ValueError, match=r"the files of split 'train' hold other rows than the cache"):
        checks.check(**given)
    (tmp_path / "train.jsonl").unlink()
    assert checks.check(**given) is None


def test_a_run_warns_of_rows_that_are_trained_on(tmp_path, arguments, sums, capsys, caplog):
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=1)
    train.train(str(tmp_path / "run"), **arguments, quiet=True)
    assert "WARNING 10 of 10 rows of split 'test' have the input of a training row" in capsys.readouterr().err
    found = record.read(tmp_path / "run").data
    assert found["test"].seen == 10 and found["train"].seen is None
    train.train(str(tmp_path / "run"), **arguments, quiet=True)
    assert [text for text in caplog.messages if text.startswith("10 of 10 rows of split 'test' have the input")]
    again = functools.partial(checks.scored_again, tmp_path / "run")
    for task in (sums.label, sums.rationale):
        (warning,) = again(task, "test", 10)
        assert warning.startswith("10 of 10 rows of split 'test' have the input of a training row")
    assert again(sums.label, "test", 3)[0].startswith("10 of 10 rows of split 'test' that the training scored have")
    assert again(sums.label, "train", 40) == []
    write_rows(tmp_path / "test.jsonl", 10, start=51)
    registration.call_of(sums.label)()  # forgets the rows that it has read
    (warning,) = again(sums.label, "test", 10)
    assert warning.startswith("the rows of split 'test', or the way their answers are compared, are not those of the")
    (tmp_path / "run" / record.FILE).unlink()
    assert again(sums.label, "test", 10) == checks.seen_before(tmp_path / "run") == []
