import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from distill.tasks import corpus, cqa, esnli, feeding, jsonl, metrics, registration, svamp, task_ids
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.tasks.registration import register

BYTES = seqio.ByteVocabulary()


def _examples(name, split="train", **kwargs):
    dataset = registration.get(name).get_dataset(None, split=split, shuffle=False, num_epochs=1, **kwargs)
    return list(dataset.as_numpy_iterator())


def _text(ids):
    return BYTES.decode(ids.tolist())


def _dataset(name, records, **settings):
    return Dataset(name, lambda split: iter(records), validation_fraction=0.0, **settings)


BOTH = Record(id="both", input="q1", label="yes", llm_label="yes", rationales=("because",), choices=("yes", "no"))
DIFFERS = Record(id="differs", input="q2", label="yes", llm_label="no", rationales=("whereas",), weight=0.5)
FAILED = Record(id="failed", input="q3", label="no")
NO_GOLD = Record(id="no gold", input="q4", llm_label="no", rationales=("hence",))
ROWS = [BOTH, DIFFERS, FAILED, NO_GOLD]


def test_registering_reads_nothing(tmp_path):
    names = register(svamp.dataset(tmp_path / "nowhere"), BYTES)
    assert names == registration.Registered(
        label="svamp_label",
        rationale="svamp_rationale",
        single="svamp_single",
        mixed="svamp_mixed",
        paired="svamp_paired",
        shared="svamp_shared",
        shared_label="svamp_shared_label",
        shared_rationale="svamp_shared_rationale",
    )
    with pytest.raises(FileNotFoundError, match=r"svamp_train\.json is missing"):
        _examples(names.label)


def test_the_label_task():
    names = register(_dataset("rows", ROWS), BYTES)
    examples = _examples(names.label)
    assert [_text(example["inputs"]) for example in examples] == ["[label] q1", "[label] q2", "[label] q3"]
    assert [_text(example["targets"]) for example in examples] == ["yes", "yes", "no"]
    first = examples[0]
    assert first["inputs"][-1] == first["targets"][-1] == 1
    assert first["inputs"].dtype == first["targets"].dtype == first["targets_task_ids"].dtype == np.int32
    assert first["targets_weights"].dtype == np.float32
    assert first["targets_task_ids"].tolist() == [task_ids.LABEL] * 4
    assert examples[1]["targets_weights"].tolist() == [0.5] * 4
    assert first["id"] == b"both"
    assert first["choices"].tolist() == [b"yes", b"no"]
    assert (first["label"], first["llm_label"], first["rationale"]) == (b"yes", b"yes", b"because")
    assert (first["inputs_pretokenized"], first["targets_pretokenized"]) == (b"[label] q1", b"yes")
    assert set(registration.get(names.label).output_features) == {"inputs", "targets"}


def test_the_rationale_task():
    names = register(_dataset("rows", ROWS), BYTES)
    examples = _examples(names.rationale)
    assert [_text(example["inputs"]) for example in examples] == ["[rationale] q1", "[rationale] q2", "[rationale] q4"]
    assert [_text(example["targets"]) for example in examples] == ["because", "whereas", "hence"]
    assert set(examples[0]["targets_task_ids"].tolist()) == {task_ids.RATIONALE}
    assert examples[1]["targets_weights"].tolist() == [0.5] * 8


def test_the_paired_task_has_empty_features_for_what_is_missing():
    names = register(_dataset("rows", ROWS), BYTES)
    examples = {example["id"].decode(): example for example in _examples(names.paired)}
    assert list(examples) == ["both", "differs", "failed", "no gold"]
    both = examples["both"]
    assert (_text(both["inputs"]), _text(both["rationale_inputs"])) == ("[label] q1", "[rationale] q1")
    assert (_text(both["targets"]), _text(both["rationale_targets"])) == ("yes", "because")
    assert len(both["rationale_targets_weights"]) == len(both["rationale_targets"])
    assert both["rationale_targets_weights"].dtype == np.float32
    for name in ("rationale_inputs", "rationale_targets", "rationale_targets_weights"):
        assert len(examples["failed"][name]) == 0
        assert len(examples["no gold"][name]) > 0
    for name in ("inputs", "targets", "targets_task_ids", "targets_weights"):
        assert len(examples["no gold"][name]) == 0
        assert len(examples["failed"][name]) > 0


def test_the_single_task_reasons_and_then_answers():
    names = register(_dataset("rows", ROWS), BYTES, single_prefix="think: ")
    examples = _examples(names.single)
    assert [_text(example["targets"]) for example in examples] == [
        "because So the answer is yes",
        "whereas So the answer is yes",
        "So the answer is no",
    ]
    first = examples[0]
    assert _text(first["inputs"]) == "think: q1"
    assert first["targets"][-1] == 1
    reasons = first["targets_task_ids"] == task_ids.RATIONALE
    assert _text(first["targets"][reasons]) == "because"
    assert _text(first["targets"][~reasons]) == " So the answer is yes"
    assert first["targets_pretokenized"] == b"because So the answer is yes"
    task = registration.get(names.single)
    target = task.postprocess_fn(first["targets_pretokenized"].decode(), example=first, is_target=True)
    assert target == metrics.Answer("yes", ("yes", "no"))
    read = [task.postprocess_fn(text, example=first, is_target=False) for text in ("x So the answer is\nyes.", "yes")]
    assert read == ["yes.", ""]
    assert task.metric_fns[0]([target] * 2, read)["accuracy"] == 0.5
    no_gold = _examples(register(_dataset("rows", [NO_GOLD]), BYTES, label_source="teacher").single)[0]
    assert task.postprocess_fn("", example=no_gold, is_target=True) == metrics.Answer("no")


def test_the_mixture_keeps_task_ids_and_draws_at_its_rates():
    rows = [Record(id=str(n), input=f"q{n}", label="yes", rationales=("because",)) for n in range(20)]
    names = register(_dataset("mixed", rows), BYTES, label_rate=3.0, rationale_rate=1.0)
    mixture = registration.get(names.mixed)
    assert [mixture.get_rate(registration.get(name)) for name in (names.label, names.rationale)] == [3.0, 1.0]
    dataset = mixture.get_dataset({"inputs": 32, "targets": 32}, split="train", shuffle=False, seed=1, num_epochs=None)
    drawn = list(dataset.take(1000).as_numpy_iterator())
    assert set(drawn[0]) == {"inputs", "targets", "targets_task_ids", "targets_weights"}
    share = np.mean([example["targets_task_ids"][0] == task_ids.LABEL for example in drawn])
    assert abs(share - 0.75) < 0.05
    kept = mixture.get_dataset(None, split="train", shuffle=False, num_epochs=1, passthrough_features=["id"])
    assert "id" in kept.element_spec


def test_bos_precedes_every_input_and_no_target(gemma_vocabulary):
    plain = register(_dataset("plain", ROWS), gemma_vocabulary)
    names = register(_dataset("rows", ROWS), gemma_vocabulary, encoder_bos=True)
    for form in ("label", "rationale", "single", "paired", "shared", "shared_label"):
        for example, without in zip(_examples(getattr(names, form)), _examples(getattr(plain, form)), strict=True):
            for feature in ("inputs", "targets", "rationale_inputs", "rationale_targets"):
                if feature in example:
                    start = [2] if feature.endswith("inputs") and len(without[feature]) else []
                    assert example[feature].tolist() == [*start, *without[feature].tolist()], (form, feature)
                    assert example[feature].size == 0 or example[feature][-1] == 1
    settings = registration.settings_of(names.label)
    assert settings["encoder_bos"] is True and "encoder_bos" not in registration.settings_of(plain.label)
    with pytest.raises(ValueError, match="the vocabulary has no BOS, which ENCODER_BOS=True"):
        _examples(register(_dataset("rows", ROWS), BYTES, encoder_bos=True).label)


def test_spans_have_no_bos(tmp_path):
    (tmp_path / "text.txt").write_text("some words\n")
    names = register(corpus.dataset({"train": str(tmp_path / "text.txt")}), BYTES, encoder_bos=True)
    with pytest.raises(ValueError, match="ENCODER_BOS=True has no effect on FORM=spans"):
        _examples(names.spans)


def test_prefixes_are_a_choice():
    names = register(_dataset("rows", ROWS), BYTES, label_prefix="predict: ", rationale_prefix="explain: ")
    assert _text(_examples(names.label)[0]["inputs"]) == "predict: q1"
    assert _text(_examples(names.rationale)[0]["inputs"]) == "explain: q1"


def test_teacher_labels_train_and_gold_labels_evaluate():
    source = lambda split: iter(ROWS)  # noqa: E731
    source.splits = ("train", "test")
    names = register(Dataset("rows", source, validation_fraction=0.0), BYTES, label_source="teacher")
    train = {example["id"].decode(): example for example in _examples(names.label)}
    assert {name: example["targets_pretokenized"] for name, example in train.items()} == {
        "both": b"yes",
        "differs": b"no",
        "no gold": b"no",
    }
    assert train["differs"]["label"] == b"yes"
    test = {example["id"].decode(): example["targets_pretokenized"] for example in _examples(names.label, "test")}
    assert test == {"both": b"yes", "differs": b"yes", "failed": b"no", "no gold": b"no"}
    paired = {example["id"].decode(): example for example in _examples(names.paired)}
    assert set(paired) == {"both", "differs", "no gold"}


def test_the_agreement_filter_reaches_the_tokens():
    names = register(_dataset("rows", ROWS), BYTES, on_disagreement="drop_rationale")
    assert [example["id"] for example in _examples(names.rationale)] == [b"both", b"no gold"]
    assert len(_examples(names.label)) == 3
    names = register(_dataset("rows", ROWS), BYTES, on_disagreement="down_weight", disagreement_weight=0.5)
    weights = {example["id"]: example["targets_weights"][0] for example in _examples(names.rationale)}
    assert weights == {b"both": 1.0, b"differs": 0.25, b"no gold": 1.0}
    labels = {example["id"]: example["targets_weights"][0] for example in _examples(names.label)}
    assert labels == {b"both": 1.0, b"differs": 0.5, b"failed": 1.0}


def test_one_of_several_rationales_is_drawn_by_the_seed():
    texts = tuple(f"reason {n}" for n in range(5))
    rows = [Record(id=str(n), input=f"q{n}", label="yes", rationales=texts) for n in range(30)]
    names = register(_dataset("several", rows, several_rationales=True), BYTES)

    def drawn(seed, name=names.rationale):
        key = "rationale_targets_pretokenized" if name == names.paired else "targets_pretokenized"
        return [example[key].decode() for example in _examples(name, seed=seed)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert set(drawn(0)) <= set(texts)
    assert len(set(drawn(0))) == 5
    assert drawn(3, names.paired) == drawn(3, names.paired)
    assert all(registration.draws_at_random(name) for name in (names.label, names.rationale, names.paired))
    assert registration.draws_at_random(names.paired, "train")
    two_epochs = registration.get(names.rationale).get_dataset(None, split="train", shuffle=False, seed=0, num_epochs=2)
    both = [example["targets_pretokenized"].decode() for example in two_epochs.as_numpy_iterator()]
    assert both[:30] != both[30:]


def test_the_first_rationale_can_be_asked_for():
    rows = [Record(id="1", input="q", label="yes", rationales=("one", "two"))]
    names = register(_dataset("several", rows, several_rationales=True), BYTES, rationales="first")
    assert not registration.draws_at_random(names.rationale)
    assert {_text(_examples(names.rationale, seed=seed)[0]["targets"]) for seed in range(4)} == {"one"}
    assert not registration.draws_at_random(register(_dataset("one", rows), BYTES).rationale)
    one_each = register(_dataset("one", ROWS, several_rationales=True), BYTES)
    assert registration.draws_at_random(one_each.rationale)
    assert not registration.draws_at_random(one_each.rationale, "train")


def test_premise_and_hypothesis_are_joined_by_eos(nli_dir):
    names = register(esnli.dataset(nli_dir), BYTES)
    example = _examples(names.label)[0]
    ids = example["inputs"].tolist()
    assert ids.count(1) == 2 and ids[-1] == 1
    middle = ids.index(1)
    assert BYTES.decode(ids[:middle]) == "[label] Man 0 sits."
    assert BYTES.decode(ids[middle + 1 :]) == "A man stands."
    assert example["inputs_pretokenized"] == b"[label] Man 0 sits.</s>A man stands."
    # Only where the data set says so.
    rows = [Record(id="1", input="a</s>b", label="yes")]
    assert _examples(register(_dataset("plain", rows), BYTES).label)[0]["inputs"].tolist().count(1) == 1


def test_failed_replies_keep_their_gold_label_and_are_reported(svamp_dir):
    names = register(svamp.dataset(svamp_dir, validation_fraction=0.0), BYTES)
    assert len(_examples(names.label)) == 6
    assert len(_examples(names.rationale)) == 5
    report = registration.report(names.label, "train")
    assert [problem.id for problem in report.failed] == ["svamp-train-1"]
    assert registration.get(names.label).num_input_examples("train") == 6


def test_subsampling_at_registration():
    rows = [Record(id=str(n), input=f"q{n}", label="yes") for n in range(200)]
    sizes, ids = [], []
    for fraction in (0.125, 0.25, 0.5, 1.0):
        names = register(_dataset("sub", rows), BYTES, subsample=fraction)
        examples = _examples(names.label)
        sizes.append(registration.get(names.label).num_input_examples("train"))
        assert sizes[-1] == len(examples)
        ids.append({example["id"] for example in examples})
    assert sizes == sorted(sizes) and sizes[-1] == 200
    assert ids[0] < ids[1] < ids[2] < ids[3]


def test_evaluation_goes_through_seqio(cqa_dir):
    names = register(cqa.dataset(cqa_dir), BYTES)
    task = registration.get(names.label)
    examples = _examples(names.label, "test")
    targets = [task.postprocess_fn(_text(e["targets"]), example=e, is_target=True) for e in examples]
    assert targets[4] == metrics.Answer("Rome", ("shelf", "pond", "zoo", "bank", "Rome"))
    predictions = [
        task.postprocess_fn(t, example=e, is_target=False) for t, e in zip(["(a) shelf", "zoo"] * 3, examples)
    ]
    (metric,) = task.metric_fns
    result = metric(targets, predictions)
    assert result["accuracy"] == pytest.approx(1 / 6)
    assert result["accuracy_low"] < result["accuracy"] < result["accuracy_high"]
    rationale = registration.get(names.rationale)
    reference = _examples(names.rationale, "test")[0]
    target = rationale.postprocess_fn("", example=reference, is_target=True)
    assert target.text == "It must be a place for items."
    assert [fn.__name__ for fn in rationale.metric_fns] == ["rouge_l", "bleu"]


def test_metrics_of_any_two_arguments(svamp_dir):
    def length(gold, answers):
        return {"length": len(answers)}

    def aux(targets, predictions, aux_values):
        return {}

    names = register(svamp.dataset(svamp_dir), BYTES, label_metrics=[length, aux], rationale_metrics=[length])
    functions = registration.get(names.label).metric_fns
    assert [fn.__name__ for fn in functions] == ["equation_accuracy", "length", "aux"]
    assert functions[1](targets=["1"], predictions=["2"]) == {"length": 1}
    assert len(registration.get(names.rationale).metric_objs) == 3
    with pytest.raises(TypeError, match=r"rationale_metrics\[0\] must take two positional arguments"):
        register(svamp.dataset(svamp_dir), BYTES, rationale_metrics=[len])


@pytest.mark.parametrize("form", ["label", "single", "rationale"])
def test_seqios_own_evaluator_takes_the_tasks(svamp_dir, form):
    name = getattr(register(svamp.dataset(svamp_dir), BYTES), form)
    evaluator = seqio.Evaluator(name, seqio.EncDecFeatureConverter(pack=False), eval_split="test")

    def repeat_the_targets(dataset, model_feature_shapes=None):
        return [(index, example["decoder_target_tokens"].tolist()) for index, example in dataset.as_numpy_iterator()]

    computed, _ = evaluator.evaluate(
        compute_metrics=True, step=0, predict_fn=repeat_the_targets, score_fn=lambda dataset: None
    )
    results = computed.result()[name]
    main = "rouge_l" if form == "rationale" else "accuracy"
    assert float(getattr(results[main], "value", results[main])) == 1.0


def test_registering_again_replaces():
    register(_dataset("again", ROWS), BYTES)
    names = register(_dataset("again", ROWS[:1]), BYTES, label_prefix="new ")
    assert [_text(example["inputs"]) for example in _examples(names.label)] == ["new q1"]
    assert len(_examples(names.mixed)) >= 1
    assert registration.get(names.mixed).tasks[0] is registration.get(names.label)


def test_unknown_names_suggest_their_neighbours(tmp_path):
    register(svamp.dataset(tmp_path), BYTES)
    with pytest.raises(ValueError, match=r"no task or mixture is named 'svmap_paired'; did you mean 'svamp_paired'"):
        registration.get("svmap_paired")
    assert "svamp_mixed" in registration.neighbours("svamp_mix")
    with pytest.raises(ValueError, match=r"registered: .*svamp_label"):
        registration.get("zzz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_rate": 0.0, "rationale_rate": 0.0}, "mixture rates must not both be 0"),
        ({"label_rate": -1.0}, "label_rate must be a finite number ≥ 0; got -1.0"),
        ({"rationales": "each"}, "rationales must be 'auto', 'first', 'draw' or 'all'"),
        ({"label_source": "llm"}, "label_source must be"),
        ({"subsample": 0.0}, "subsample must be"),
        ({"vocabulary": "bite"}, "no vocabulary at bite"),
    ],
)
def test_bad_arguments_leave_the_registry_alone(tmp_path, arguments, message):
    names = register(_dataset("kept", ROWS), BYTES)
    before = registration.get(names.label)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        register(_dataset("kept", ROWS[:1]), **({"vocabulary": BYTES} | arguments))
    assert registration.get(names.label) is before


def test_a_data_set_is_asked_for():
    with pytest.raises(TypeError, match=r"expected a tasks\.dataset\.Dataset"):
        register("svamp", BYTES)


def test_rows_beyond_memory_are_streamed(monkeypatch):
    rows = [*ROWS, Record(id="5", input="é", label="", rationales=())]
    held = _examples(register(_dataset("held", rows), BYTES).paired)
    monkeypatch.setattr(feeding, "_IN_MEMORY", 2)
    monkeypatch.setattr(feeding, "_BLOCK", 2)
    names = register(_dataset("streamed", rows), BYTES)
    streamed = _examples(names.paired)
    assert registration.get(names.paired).num_input_examples("train") == 5
    assert len(held) == len(streamed) == 4
    for one, other in zip(held, streamed):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_iterators_over_rows_in_memory_can_be_saved(tmp_path):
    names = register(_dataset("saved", ROWS), BYTES)
    iterator = iter(
        registration.get(names.label).get_dataset(None, split="train", shuffle=False, try_in_mem_cache=False)
    )
    next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    expected = [example["id"].numpy() for example in iterator]
    again = iter(registration.get(names.label).get_dataset(None, split="train", shuffle=False, try_in_mem_cache=False))
    tf.train.Checkpoint(iterator=again).restore(path)
    assert [example["id"].numpy() for example in again] == expected == [b"differs", b"failed"]


def test_caching_sits_before_the_draw():
    rows = [Record(id=str(n), input=f"q{n}", label="yes", rationales=("one", "two")) for n in range(6)]
    names = register(_dataset("cached", rows, several_rationales=True), BYTES)
    task = registration.get(names.rationale)
    assert task.supports_caching and not task.requires_caching
    before = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    assert "rationales" in before.element_spec
    after = task.preprocess_postcache(before, None, seed=5)
    expected = [example["targets_pretokenized"] for example in _examples(names.rationale, seed=5)]
    assert [example["targets_pretokenized"] for example in after.as_numpy_iterator()] == expected


def test_shards_are_a_partition():
    rows = [Record(id=str(n), input=f"q{n}", label="yes") for n in range(11)]
    names = register(_dataset("sharded", rows), BYTES)
    parts = [_examples(names.label, shard_info=seqio.ShardInfo(index, 3)) for index in range(3)]
    ids = [example["id"].decode() for part in parts for example in part]
    assert sorted(ids, key=int) == [str(n) for n in range(11)]


def test_json_lines_end_to_end(tmp_path, write):
    rows = [{"question": f"q{n}", "why": ["w1", "w2"], "answer": f"a{n}"} for n in range(5)]
    path = write.lines(tmp_path / "rows.jsonl", [*rows, json.dumps({"why": "no question"})])
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    names = register(jsonl.dataset({"train": path}, name="faq", fields=fields, validation_fraction=0.0), BYTES)
    assert names.paired == "faq_paired"
    assert [_text(example["targets"]) for example in _examples(names.label)] == [f"a{n}" for n in range(5)]
    assert registration.report(names.label, "train").counts() == {"the row has no input: field 'question' is absent": 1}


def test_hostile_rows_do_not_reach_tensorflow_and_control_characters_do(tmp_path):
    lines = [
        '{"input": "a\\u0000b\\u0007", "label": "x\\u0000"}',
        '{"input": "half \\ud83d", "label": "x"}',
        '{"input": "c", "label": "x", "weight": 1' + "0" * 500 + "}",
        '{"input": "d", "label": NaN}',
        '{"input": "e", "label": ' + "[" * 3000 + "]" * 3000 + "}",
        '{"input": "f", "label": "y\\u2028\\u202e"}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    dataset = jsonl.dataset({"train": tmp_path / "rows.jsonl"}, name="hostile", validation_fraction=0.0)
    names = register(dataset, BYTES)
    examples = _examples(names.label)
    assert [_text(example["inputs"]) for example in examples] == ["[label] a\0b\a", "[label] f"]
    assert [_text(example["targets"]) for example in examples] == ["x\0", "y\u2028\u202e"]
    assert [problem.line for problem in registration.report(names.label, "train").rejected] == [2, 3, 5]
