import contextlib

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from distill.tasks import anli1, cqa, esnli, registration
from distill.tasks.records import Report

BYTES = seqio.ByteVocabulary()


@contextlib.contextmanager
def _mock(rows):
    """TFDS serves ``rows`` for every split, whatever it is asked for."""

    def as_dataset(builder, *args, **kwargs):
        types = dict(builder.info.features.items())
        signature = {name: tf.TensorSpec(types[name].shape, types[name].dtype) for name in types}
        return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=signature)

    with tfds.testing.mock_data(num_examples=len(rows), as_dataset_fn=as_dataset):
        yield


def _read(dataset, split):
    report = Report()
    return list(dataset.records(split, report)), report


def test_esnli_with_mocked_random_rows():
    dataset = esnli.tfds_dataset()
    assert dataset.splits == ("train", "validation", "test")
    names = registration.register(dataset, BYTES)
    with tfds.testing.mock_data(num_examples=7):
        examples = list(
            registration.get(names.paired).get_dataset(None, split="train", shuffle=False).as_numpy_iterator()
        )
    assert len(examples) == 7
    assert {example["label"] for example in examples} <= {b"entailment", b"neutral", b"contradiction"}
    assert all(example["inputs"].tolist().count(1) == 2 for example in examples)


def test_esnli_rows():
    rows = [
        {"premise": "A man sits.", "hypothesis": "He stands.", "label": 2}
        | {"explanation_1": "He sits.", "explanation_2": "Not both.", "explanation_3": ""},
        {"premise": "A man.", "hypothesis": "Caf\xe9.", "label": -1}
        | {"explanation_1": "", "explanation_2": "", "explanation_3": ""},
        {"premise": b"\xff", "hypothesis": "x", "label": 0}
        | {"explanation_1": "", "explanation_2": "", "explanation_3": ""},
    ]
    with _mock(rows):
        for split in ("train", "validation", "test"):
            (record,), report = _read(esnli.tfds_dataset(), split)
            assert record.input == "A man sits.</s>He stands."
            assert record.label == "contradiction"
            assert record.rationales == ("He sits.", "Not both.")
            assert [problem.line for problem in report.rejected] == [2, 3]
            assert report.rejected[0].reason.startswith("unknown label -1")
            assert report.rejected[1].reason == "not UTF-8"


def test_anli_rows():
    rows = [{"uid": "u1", "context": "It rains.", "hypothesis": "It is wet.", "label": 0}]
    with _mock(rows):
        (record,), _ = _read(anli1.tfds_dataset(), "validation")
    assert (record.id, record.input, record.label) == ("u1", "It rains.</s>It is wet.", "entailment")
    assert record.rationales == ()


def test_cos_e_rows():
    rows = [
        {"id": f"c{n}", "question": f"Which {n}?", "choices": ["x", "y"], "answer": "y"}
        | {"abstractive_explanation": "y fits", "extractive_explanation": "fits"}
        for n in range(30)
    ]
    dataset = cqa.tfds_dataset()
    assert dataset.splits == ("train", "validation", "test")
    with _mock(rows):
        train, _ = _read(dataset, "train")
        validation, _ = _read(dataset, "validation")
        test, _ = _read(dataset, "test")
    assert len(train) + len(validation) == len(test) == 30
    assert test[0].id == "c0"
    assert test[0].input == "Which 0?\nAnswer Choices:\n(a) x\n(b) y"
    assert (test[0].label, test[0].choices, test[0].rationales) == ("y", ("x", "y"), ("y fits",))


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match=r"anli/r1:0\.1\.0 has no split 'dev' here; it has train, validation, test"):
        list(anli1.tfds_dataset().source("dev"))
