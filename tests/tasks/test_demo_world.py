"""The demo's world: its questions have one answer, its splits share nothing, and new nouns are in no other text."""

import collections
import itertools

import pytest

from distill.tasks import demo_world
from distill.tasks.demo_facts import NEW, WORLD, World
from distill.tasks.demo_world import Pretraining, Questions
from distill.tasks.records import Report
from distill.tools import vocabulary

SMALL = {"train_rows": 60, "validation_rows": 30, "test_rows": 80}


def test_world_has_the_size_it_says():
    assert len(WORLD.kinds) == 12
    assert len(WORLD.can) == 30
    assert all(len(WORLD.familiar[kind]) == len(WORLD.new[kind]) == 12 for kind in WORLD.kinds)
    assert all(1 <= len(kinds) <= 3 for kinds in WORLD.can.values())
    assert min(len(pairs) for pairs in WORLD.pairs.values()) >= 10


def test_a_pair_of_verbs_holds_for_its_kind_only():
    for kind, pairs in WORLD.pairs.items():
        for first, second in pairs:
            assert set(WORLD.can[first]) & set(WORLD.can[second]) == {kind}


def test_kind_of():
    assert WORLD.kind_of("robins") == "birds"
    assert WORLD.kind_of("oboes") == "instruments"
    with pytest.raises(KeyError):
        WORLD.kind_of("unicorns")


@pytest.mark.parametrize("split", Questions.splits)
def test_questions_have_exactly_one_answer(split):
    for record in Questions(3, **SMALL)(split):
        words = record.input.split()
        assert words[:2] == ["what", "can"]
        assert words[3] == "and"
        assert words[5] == "?"
        first, second, choices = words[2], words[4], words[6:]
        assert tuple(choices) == record.choices
        assert len(choices) in (4, 5)
        able = [n for n in choices if {first, second} <= {v for v, k in WORLD.can.items() if WORLD.kind_of(n) in k}]
        assert able == [record.label]
        assert record.llm_label == record.label
        tempting = [
            n for n in choices if n not in able and any(WORLD.kind_of(n) in WORLD.can[v] for v in (first, second))
        ]
        assert len(tempting) <= 2
        kinds = [WORLD.kind_of(n) for n in choices]
        assert len(set(kinds)) == len(kinds)
        (reasons,) = record.rationales
        named = {WORLD.kind_of(noun): noun for noun in choices}
        facts = " ".join(f"{kind} include {named[kind]} ." for kind in WORLD.kinds if kind in named)
        assert reasons == f"{facts} {WORLD.kind_of(record.label)} can {first} and {second} ."


def test_every_word_of_a_question_about_things_is_new():
    new = set(itertools.chain(*WORLD.new.values()))
    assert all(set(r.choices) <= new for split in Questions.splits for r in Questions(1, **SMALL)(split))


def test_splits_share_no_question_in_whatever_order():
    source = Questions(5, train_rows=500, validation_rows=200, test_rows=1000)
    asked = [q.identity for split in source.splits for q in source.questions(split)]
    assert len(asked) == len(set(asked)) == 1700


def test_the_seed_decides_everything():
    def rows(seed):
        return [list(Questions(seed, **SMALL)(split)) for split in Questions.splits]

    assert rows(4) == rows(4)
    assert rows(4) != rows(5)


def test_fewer_training_rows_are_the_first_of_more_and_evaluation_rows_stay():
    small, large = Questions(2, **SMALL), Questions(2, **{**SMALL, "train_rows": 120})
    assert list(large("train"))[:60] == list(small("train"))
    assert list(large("test")) == list(small("test"))
    assert list(large("validation")) == list(small("validation"))


def test_shuffled_rationales_are_the_same_sentences_beside_other_questions():
    right, wrong = Questions(2, **SMALL), Questions(2, **SMALL, shuffled_rationales=True)
    rows, moved = list(right("train")), list(wrong("train"))
    assert [(r.input, r.label) for r in rows] == [(r.input, r.label) for r in moved]
    assert collections.Counter(r.rationales for r in rows) == collections.Counter(r.rationales for r in moved)
    assert all(a.rationales != b.rationales for a, b in zip(rows, moved))
    assert list(right("test")) == list(wrong("test"))


def test_answers_fall_on_every_place_and_kind_about_equally():
    questions = Questions(0, test_rows=3000).questions("test")
    places = collections.Counter(q.choices.index(q.answer) for q in questions if len(q.choices) == 4)
    assert max(places.values()) < 1.3 * min(places.values())
    kinds = collections.Counter(q.kind for q in questions)
    assert len(kinds) == 12
    assert max(kinds.values()) < 1.5 * min(kinds.values())


def test_pretraining_says_nothing_about_new_nouns_and_nothing_false():
    new = set(itertools.chain(*WORLD.new.values()))
    forms = collections.Counter()
    for record in Pretraining(0, train_rows=2000)("train"):
        words, wanted = record.input.split(), record.label.split()
        assert not new & {*words, *wanted}
        assert not record.rationales
        if "___" in words:
            subject, verb, rest = record.input.replace("___", record.label).split()
            kind = subject if subject in WORLD.kinds else WORLD.kind_of(subject)
            assert rest == kind if verb == "are" else kind in WORLD.can[rest]
            forms["fact"] += 1
        elif words[0] == "which":
            named = {WORLD.kind_of(noun): noun for noun in words[1:-1]}
            facts = [f"{kind} include {named[kind]} ." for kind in WORLD.kinds if kind in named]
            assert record.label == " ".join(facts)
            forms["kinds"] += 1
        else:
            choices = words[words.index("?") + 1 :]
            if words[1] == "are":
                right = [n for n in choices if WORLD.kind_of(n) == words[2]]
                forms["by kind"] += 1
            else:
                verbs = [w for w in words[2 : words.index("?")] if w != "and"]
                right = [n for n in choices if all(WORLD.kind_of(n) in WORLD.can[v] for v in verbs)]
                forms[f"by {len(verbs)}"] += 1
            assert right == [record.label]
    assert set(forms) == {"fact", "kinds", "by kind", "by 1", "by 2"}
    assert min(forms.values()) > 200


def test_pretraining_depends_on_its_seed_and_split():
    source = Pretraining(0, train_rows=50, validation_rows=50)
    assert list(source("train")) == list(Pretraining(0, train_rows=50)("train"))
    assert list(source("train")) != list(Pretraining(1, train_rows=50)("train"))
    assert [r.input for r in source("train")] != [r.input for r in source("validation")]


def test_a_word_vocabulary_holds_every_text():
    model = vocabulary.train(list(demo_world.vocabulary_texts()), demo_world.VOCABULARY_SIZE, model_type="word")
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert pieces.get_piece_size() <= demo_world.VOCABULARY_SIZE
    texts = [
        text
        for source in (Questions(0, train_rows=400), Pretraining(0, train_rows=1000))
        for record in source("train")
        for text in (f"[label] {record.input}", record.label, *record.rationales)
    ]
    for text in [*texts, "[rationale]"]:
        assert pieces.unk_id() not in pieces.encode(text)
        assert pieces.decode(pieces.encode(text)) == text
        assert len(pieces.encode(text)) == len(text.split())


def test_lengths_that_the_demo_plans_for():
    for record in Questions(0, train_rows=400)("train"):
        assert len(record.input.split()) + 2 <= 13
        assert len(record.rationales[0].split()) + 1 <= 27
    assert all(len(record.label.split()) + 1 <= 9 for record in Pretraining(0, train_rows=400)("train"))


def test_data_sets_have_their_splits():
    asked = demo_world.dataset(seed=1, **SMALL)
    assert asked.splits == ("train", "validation", "test")
    assert {split: len(list(asked.records(split))) for split in asked.splits} == {
        "train": 60,
        "validation": 30,
        "test": 80,
    }
    report = Report()
    assert len(list(asked.records("test", report))) == report.rows == 80
    assert not report.problems
    read = demo_world.pretraining(train_rows=20, validation_rows=10)
    assert read.splits == ("train", "validation")
    assert len(list(read.records("train"))) == 20


@pytest.mark.parametrize("split", ["train_rows", "validation_rows", "test_rows"])
def test_refuses_sizes_that_make_no_sense(split):
    with pytest.raises(ValueError, match=f"{split} must be ≥ 1; got 0"):
        Questions(0, **{split: 0})


def test_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="at least 2 training rows; got 1"):
        Questions(0, train_rows=1, shuffled_rationales=True)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        list(Questions(0)("dev"))
    with pytest.raises(ValueError, match="unknown split 'test'"):
        list(Pretraining(0)("test"))
    with pytest.raises(ValueError, match="train_rows must be ≥ 1; got -1"):
        Pretraining(0, train_rows=-1)


def test_a_world_checks_itself():
    can = {"fly": ("birds",), "sing": ("birds",), "swim": ("fish",), "bite": ("fish",)}
    familiar, new = {"birds": ("owls",), "fish": ("cod",)}, {"birds": ("wrens",), "fish": ("rays",)}
    assert World(familiar, new, can).pairs["fish"] == (("swim", "bite"), ("bite", "swim"))
    with pytest.raises(ValueError, match="kinds of familiar and new nouns differ: \\['fish'\\]"):
        World(familiar, {"birds": ("wrens",)}, can)
    with pytest.raises(ValueError, match="used twice: cod"):
        World(familiar, {**new, "fish": ("cod",)}, can)
    with pytest.raises(ValueError, match="'sail' must hold for known kinds"):
        World(familiar, new, {**can, "sail": ("boats",)})
    with pytest.raises(ValueError, match="no question about it is possible"):
        World(familiar, new, {"fly": ("birds",), "sing": ("birds",), "swim": ("fish",)})


def test_the_tables_are_what_the_world_is_made_of():
    assert WORLD.new == {kind: tuple(nouns.split()) for kind, nouns in NEW.items()}


def test_a_fallible_teacher_errs_on_every_split_and_its_rows_stay():
    right, fallible = Questions(3), Questions(3, votes=1, error_rate=0.2)
    for split in right.splits:
        plain, voted = list(right(split)), list(fallible(split))
        assert [(row.id, row.input, row.label) for row in plain] == [(row.id, row.input, row.label) for row in voted]
        assert all(row.llm_label in row.choices for row in voted)
        wrong = sum(row.llm_label != row.label for row in voted) / len(voted)
        assert abs(wrong - 0.2) < 4 * (0.2 * 0.8 / len(voted)) ** 0.5
