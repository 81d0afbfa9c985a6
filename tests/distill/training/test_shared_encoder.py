"""One encoder pass for both tasks: windows, losses and gradients against two passes, prompts in decoding, a whole run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data import features, trimming
from distill.data.batches import BatchStream
from distill.data.features import TwoTaskFeatureConverter
from distill.data.packing import Layout, Packer, Planner, Sequences, TokenPair
from distill.inference import evaluate
from distill.inference.export import export
from distill.inference.infer import infer
from distill.inference.student import Student
from distill.model.decoding import generate
from distill.model.network import ModelInputs, Transformer
from distill.model.parameters import init_params
from distill.tasks import jsonl, registration, task_ids, vocabularies
from distill.training import train
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer
from distill.training.state import init_state
from distill.training.step import make_train_step
from tests.distill.conftest import TINY

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RNG = np.random.default_rng(0)


def sequence(inputs, targets, task):
    return TokenPair(
        RNG.integers(2, 300, inputs).astype(np.int32),
        RNG.integers(2, 300, targets).astype(np.int32),
        np.full(targets, task, np.int32),
        np.ones(targets, np.float32),
    )


def group(inputs, label, rationale):
    """The sequences of an example with one input; a length of 0 is an absent target."""
    made = [(label, task_ids.LABEL), (rationale, task_ids.RATIONALE)]
    made = [(targets, task) for targets, task in made if targets]
    return [sequence(inputs if number == 0 else 0, *each) for number, each in enumerate(made)]


examples = st.tuples(st.integers(1, 12), st.integers(0, 4), st.integers(0, 4)).filter(lambda e: e[1] + e[2] > 0)


def batches_of(groups, layout):
    packer = Packer(layout)
    for each in groups:
        if not packer.add(each):
            yield packer.emit()
            assert packer.add(each)
    yield packer.emit()


@settings(max_examples=60)
@given(sizes=st.lists(examples, min_size=1, max_size=30), packed=st.booleans())
def test_every_target_has_its_input_in_its_window(sizes, packed):
    layout = Layout(3, 12, 8, packed, shared_encoder=True)
    made = [group(*size) for size in sizes]
    got = []
    for batch in batches_of(made, layout):
        for row in range(layout.windows):
            inputs, targets = batch["encoder_segment_ids"][row], batch["decoder_segment_ids"][row]
            crossing = batch["decoder_cross_segment_ids"][row]
            assert packed or inputs.max() <= 1
            assert set(crossing) - {0} == set(inputs) - {0}
            for segment in np.unique(targets[targets > 0]):
                mine = targets == segment
                (source,) = np.unique(crossing[mine])
                tokens = batch["decoder_target_tokens"][row][mine]
                assert (batch["decoder_input_tokens"][row][mine] == [0, *tokens[:-1]]).all()
                assert (batch["decoder_positions"][row][mine] == np.arange(mine.sum())).all()
                ids = batch["decoder_task_ids"][row][mine]
                got.append((tuple(batch["encoder_input_tokens"][row][inputs == source]), tuple(tokens), tuple(ids)))
    wanted = [(tuple(each[0].inputs), tuple(s.targets), tuple(s.task_ids)) for each in made for s in each]
    assert sorted(got) == sorted(wanted)


def test_groups_are_placed_whole():
    planner = Planner(Layout(2, 12, 8, shared_encoder=True))
    assert planner.add([(5, 2), (0, 3)])
    assert planner.add([(5, 2), (0, 2)])  # 4 of 3 target tokens left: the second window
    assert planner.add([(5, 3)])  # both have room; the second window is left in better balance
    assert not planner.add([(4, 1), (0, 4)])  # 5 of 4
    plan = planner.take()
    np.testing.assert_array_equal(plan.rows, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(plan.segments, [1, 2, 1, 2, 3])
    np.testing.assert_array_equal(plan.decoder_offsets, [0, 2, 0, 2, 4])
    with pytest.raises(ValueError, match="at most two sequences may share an input"):
        planner.add([(4, 1), (4, 1)])
    with pytest.raises(ValueError, match="longer than the window"):
        planner.add([(4, 5), (0, 4)])


@settings(max_examples=60)
@given(sizes=st.lists(examples, min_size=1, max_size=12), ends=st.booleans())
def test_truncation_gives_the_rationale_the_room_that_the_label_leaves(sizes, ends):
    layout = Layout(1, 6, 4, shared_encoder=True)
    nothing = TokenPair(*(np.zeros(0, dtype) for dtype in (np.int32, np.int32, np.int32, np.float32)))
    counts, wanted, pairs = features.Counts(), [], []
    for inputs, label, rationale in sizes:
        given = {}
        for name, number, task in (("", label, 1), ("rationale_", rationale, 2)):
            made = sequence(inputs, number * 2, task)
            if ends and number:
                made.targets[-1] = 1
            given |= {f"{name}targets": made.targets, f"{name}targets_weights": made.weights}
            given |= {f"{name}inputs": made.inputs, f"{name}targets_task_ids": made.task_ids} if task == 1 else {}
        pairs += features.slots(given)
        found = features.to_group(given, layout, counts)
        assert sum(len(pair.targets) for pair in found) <= 4
        assert all(pair.targets[-1] == 1 for pair in found if ends)
        room = 4
        for pair in pairs[-2:]:
            one = nothing
            if len(pair.targets) and room:
                whole = (trimming.cut(pair.inputs, 6), trimming.cut(pair.targets, room))
                one = TokenPair(*whole, pair.task_ids[:room], pair.weights[:room])
            wanted.append(one)
            room -= len(one.targets)
        if len(found) == 2:
            assert len(found[0].inputs) == min(inputs, 6)
            assert len(found[1].inputs) == 0
    whole = Sequences.of(pairs)
    got = features.cut_all(whole, 2, layout)
    for field, value in vars(Sequences.of(wanted)).items():
        np.testing.assert_array_equal(getattr(got, field), value, err_msg=field)
    lengths = np.stack([whole.input_lengths, whole.target_lengths], 1).reshape(-1, 2, 2)
    assert features.count(lengths, np.tile([1, 2], (len(sizes), 1)), layout) == counts


@pytest.mark.parametrize("normalizer", ["task_tokens", "task_examples"])
def test_one_pass_has_the_gradients_of_two_passes_over_the_same_input(normalizer):
    made = [group(9, 3, 5), group(4, 2, 7), group(12, 0, 6), group(7, 4, 0), group(5, 1, 3)]
    alone = [dataclasses.replace(s, inputs=each[0].inputs) for each in made for s in each]
    packer = Packer(Layout(4, 48, 32))
    assert packer.add(alone)
    two = packer.emit()
    (one,) = batches_of(made, Layout(4, 24, 16, shared_encoder=True))
    assert (one["encoder_input_tokens"] > 0).sum() < (two["encoder_input_tokens"] > 0).sum()

    config = dataclasses.replace(TINY, dropout_rate=0.0)
    optimizer = Optimizer(optax.sgd(1.0), lambda step: jnp.float32(1.0))
    state = init_state(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)), optimizer)
    step = jax.jit(make_train_step(config, TwoTaskLoss(lam=0.7, normalizer=normalizer), optimizer))
    (a, of_one), (b, of_two) = (step(state, batch, jax.random.key(1)) for batch in (one, two))
    for name in ("loss", "loss/label", "loss/rationale", "tokens/label", "tokens/rationale"):
        np.testing.assert_allclose(of_one[name], of_two[name], rtol=1e-5, err_msg=name)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a.params, b.params)


def test_the_shared_task_has_one_input_and_prompts_of_weight_zero(sums):
    vocabulary = vocabularies.load("bytes")
    (example, *_) = registration.get(sums.shared).get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    texts = {name: example[f"{name}_pretokenized"].decode() for name in ("inputs", "targets", "rationale_targets")}
    assert "rationale_inputs" not in example
    assert vocabulary.decode(example["inputs"].tolist()) == texts["inputs"]
    for name, prefix in (("targets", "[label] "), ("rationale_targets", "[rationale] ")):
        assert vocabulary.decode(example[name].tolist()) == prefix + texts[name]
        assert example[name][-1] == vocabulary.eos_id
        weighty = [0.0] * len(prefix) + [1.0] * (len(texts[name]) + 1)
        assert example[f"{name}_weights"].tolist() == weighty
    label = registration.prompt(sums.label), registration.prompt(sums.shared_label)
    assert label == ((), tuple(vocabulary.encode("[label] ")))
    assert registration.prompt(sums.shared_rationale) == tuple(vocabulary.encode("[rationale] "))
    first = next(
        iter(registration.get(sums.shared_label).get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    )
    np.testing.assert_array_equal(first["targets"], example["targets"])
    np.testing.assert_array_equal(first["inputs"], example["inputs"])


def test_tasks_that_cannot_share_an_encoder_are_rejected(sums, tmp_path):
    with pytest.raises(
        ValueError, match=r"shared_encoder=True is for a task whose sequences share .* got 'sums_paired'"
    ):
        BatchStream(sums.paired, Layout(2, 64, 64, shared_encoder=True))
    with pytest.raises(ValueError, match="shared_encoder=False is for tasks of other forms; got 'sums_shared'"):
        BatchStream(sums.shared, Layout(2, 64, 64))
    dataset = registration.get(sums.shared).get_dataset(None, "train", shuffle=False, trim_output_features=False)
    with pytest.raises(ValueError, match="share one encoder pass requires `distill train`; use the paired task"):
        TwoTaskFeatureConverter(pack=True)(dataset, {"inputs": 64, "targets": 64})
    with pytest.raises(ValueError, match=r"packed batch needs both .* decoder_cross_segment_ids given"):
        tokens = jnp.ones((1, 4), jnp.int32)
        params = jax.jit(init_params, static_argnums=0)(TINY, jax.random.key(0))
        Transformer(TINY).apply({"params": params}, ModelInputs(tokens, tokens, decoder_cross_segment_ids=tokens))
    same = jsonl.dataset(
        {"train": tmp_path / "train.jsonl"},
        name="same",
        fields={"input": "question", "rationale": "why", "label": "answer"},
    )
    names = registration.register(same, "bytes", label_prefix="", rationale_prefix="")
    with pytest.raises(ValueError, match="targets of one input need distinct prefixes"):
        registration.get(names.shared).get_dataset(None, "train")
    with pytest.raises(ValueError, match=r"prompt must hold ids in \[0, vocab_size=384\); got \(7, 500\)"):
        generate(TINY, {}, np.ones((1, 2), np.int32), max_decode_len=2, prompt=(7, 500))


def test_evaluation_uses_the_prefixes_of_training(sums, arguments, tmp_path):
    data = train.DataConfig(sums.shared, {"inputs": 64, "targets": 96}, batch_size=4, shared_encoder=True)
    with pytest.raises(
        ValueError, match=r"begin the targets of 'sums_shared', .* FORM=shared needs EVAL_FORM=shared_label"
    ):
        train.train(str(tmp_path / "run"), **arguments | {"data": data})
    prompted = dataclasses.replace(arguments["validation"], task_name=sums.shared_label)
    with pytest.raises(ValueError, match="do not begin those of 'sums_paired'"):
        train.train(str(tmp_path / "run"), **arguments | {"validation": prompted})
    student = {"model": TINY, "mesh": arguments["mesh"]}
    with pytest.raises(ValueError, match="'sums_label', which is evaluated"):
        evaluate.evaluate(str(tmp_path), task_name=sums.label, trained_task_name=sums.shared, **student)
    with pytest.raises(ValueError, match="take 'sums_shared_label' or 'sums_shared_rationale'"):
        evaluate.Evaluator(sums.shared, "test", lambda *_: [])
    given = {"vocabulary": vocabularies.load("bytes"), "model_dir": str(tmp_path)}
    described = Student(TINY, "bytes", 125, form="shared", mesh=arguments["mesh"])
    with pytest.raises(ValueError, match=r"form must be one of .* got 'shared'; did you mean 'shared_label'"):
        infer(str(tmp_path / "in"), str(tmp_path / "out"), model_dir=str(tmp_path), student=described)
    with pytest.raises(ValueError, match=r"form must be one of .* got 'shared_rationale'"):
        export(output=str(tmp_path / "hf"), form="shared_rationale", **given)


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_from_training_to_serving(sums, arguments, tmp_path, packed):
    data = train.DataConfig(
        sums.shared, {"inputs": 64, "targets": 96}, batch_size=4, packed=packed, shared_encoder=True
    )
    validation = dataclasses.replace(arguments["validation"], task_name=sums.shared_label)
    arguments |= {"data": data, "validation": validation}
    result = train.train(str(tmp_path / "run"), **arguments)
    assert result.step == 8
    assert 0.0 <= result.test["accuracy"] <= 1.0
    student = {"model_dir": str(tmp_path / "run"), "model": arguments["model"], "mesh": arguments["mesh"]}
    decode = validation.decode
    reasoning = dataclasses.replace(decode, max_decode_len=16)  # the shortest rationale has 15 tokens
    scored = evaluate.evaluate(task_name=sums.shared_label, split="test", decode=decode, **student)
    assert scored.metrics == result.test
    questions = [json.loads(line)["question"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"input": question}) + "\n" for question in questions))
    infer(
        str(tmp_path / "in.jsonl"),
        str(tmp_path / "out.jsonl"),
        model_dir=student["model_dir"],
        student=Student(student["model"], "bytes", 125, form="shared_label", decode=decode, mesh=student["mesh"]),
        rationale_decode=reasoning,
        rationale=True,
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [row["prediction"] for row in scored.rows]
    reasons = evaluate.evaluate(task_name=sums.shared_rationale, split="test", decode=reasoning, **student)
    found = dict(zip(questions, (row["rationale"] for row in rows)))
    assert reasons.rows
    assert all(row["prediction"] == found[row["input"]] for row in reasons.rows)
