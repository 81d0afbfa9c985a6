"""Key tokens: every token's factor against the place of its text, for bytes and for a SentencePiece model."""

import numpy as np
import pytest
import seqio

from distill.tasks import registration, vocabularies
from distill.tasks.dataset import Dataset
from distill.tasks.key_tokens import KeyTokens, token_spans
from distill.tasks.records import Record
from distill.tools import vocabulary as tool

TEXT = "Larks fly, larkspur grows; 12.5 plus 3 is 15.5 – an owl sees larks."
KEYS = ("larks", "15.5")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "small.model"
    path.write_bytes(tool.train([TEXT, "owls sing and larks fly", "3 plus 4 is 7"] * 4, 60, exact_size=False))
    return vocabularies.load(str(path))


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_the_tokens_of_key_words_weigh_more(kind, pieces):
    vocabulary = seqio.ByteVocabulary() if kind == "bytes" else pieces
    ids = vocabulary.encode(TEXT)
    factors = KeyTokens("row", 3.0, 0.5).factors(vocabulary, TEXT, KEYS)
    assert factors.shape == (len(ids) + 1,) and factors[-1] == 1.0
    # Independently: the text that the first n tokens decode to ends where token n ends.
    signs = np.zeros(len(TEXT.encode()), bool)
    for word, which in (("Larks", 0), ("larks", -1), ("15.5", 0)):
        place = TEXT.encode().find(word.encode()) if which == 0 else TEXT.encode().rfind(word.encode())
        signs[place : place + len(word)] = True
    if kind == "bytes":
        np.testing.assert_array_equal(factors[:-1] == 3.0, signs)
        return
    ends = [len(vocabulary.decode(ids[: number + 1]).encode()) for number in range(len(ids))]
    covered = [signs[start:end].any() for start, end in zip([0, *ends], ends)]
    np.testing.assert_array_equal(factors[:-1] == 3.0, covered)
    assert 3.0 in factors and 0.5 in factors


def test_where_key_words_come_from():
    record = Record(id="1", input="q", label="larks", llm_label="owls", rationales=(TEXT,), key_phrases=("fly",))
    assert KeyTokens("row").phrases(record) == ("fly",)
    assert KeyTokens("label").phrases(record) == ("larks", "owls")
    assert KeyTokens("numbers").phrases(record) == ("12.5", "3", "15.5")


def test_only_rationale_tokens_are_weighted():
    rows = [
        Record(id="1", input="q", label="ab", rationales=("x ab",), weight=0.5),
        Record(id="2", input="p", label="b"),
    ]
    dataset = Dataset("keys", lambda split: iter(rows), validation_fraction=0.0)
    names = registration.register(dataset, "bytes", key_tokens="label", key_weight=4.0, other_weight=0.0)

    def weights(name, feature="targets_weights"):
        found = registration.get(name).get_dataset(None, split="train", shuffle=False).as_numpy_iterator()
        return [example[feature].tolist() for example in found]

    keyed = [0.0, 0.0, 2.0, 2.0, 0.5]
    assert weights(names.label) == [[0.5] * 3, [1.0] * 2]
    assert weights(names.rationale) == [keyed]
    assert weights(names.paired, "rationale_targets_weights") == [keyed, []]
    single = weights(names.single)[0]
    assert single[:4] == keyed[:4] and set(single[4:]) == {0.5}
    prompt = len("[rationale] ")
    assert weights(names.shared, "rationale_targets_weights")[0] == [0.0] * prompt + keyed


def test_a_vocabulary_without_places_is_refused():
    with pytest.raises(ValueError, match="key_tokens needs a SentencePiece vocabulary or bytes"):
        token_spans(seqio.PassThroughVocabulary(10), "x")
    with pytest.raises(ValueError, match="key_tokens: weight must be a finite number ≥ 0; got -1"):
        KeyTokens("row", -1.0)
