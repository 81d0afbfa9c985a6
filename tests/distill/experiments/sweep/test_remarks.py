"""Errors and warnings about axes that cannot matter."""

import pytest

from distill.experiments.sweep import SweepError, reading
from distill.experiments.sweep.remarks import Setting, refuse_idle_axes, remarks


def described(tmp_path, text, task, normalizer="all_tokens"):
    (tmp_path / "s.yaml").write_text(text)
    sweep = reading.read(tmp_path / "s.yaml", "out")
    setting = task if callable(task) else lambda run: Setting(task, normalizer)
    return sweep, sweep.runs(), {run.name: setting(run) for run in sweep.runs()}


def said(tmp_path, text, task, normalizer="all_tokens"):
    return remarks(*described(tmp_path, text, task, normalizer))


RATES = "axes: {rates: {ratio: [1, 4]}, RANDOM_SEED: [0, 1, 2]}"


def test_rates_without_a_mixture_or_with_a_fixed_weight(tmp_path):
    assert said(tmp_path, RATES, "set_mixed") == []
    (line,) = said(tmp_path, RATES, "set_mixed", "task_tokens")
    assert "does not change the weight of the tasks in 6 of 6 runs" in line
    assert "the effective λ is LAMBDA at every rate if each batch contains both tasks" in line
    weighed = f"{RATES}\nmore:\n- {{rates: 1, LAMBDA: [0.5, 2]}}"
    assert said(tmp_path, weighed, "set_mixed", "task_tokens") == []
    (line,) = said(tmp_path, RATES, "set_paired")
    assert "axis 'rates' changes nothing in 6 of 6 runs: set_paired draws no mixture" in line


def test_rates_beside_an_axis_of_weights_are_meant(tmp_path):
    """How often a task is drawn, and how much it weighs, are two questions of one grid."""
    both = "axes: {rates: {ratio: [1, 4]}, LAMBDA: [0.5, 2], RANDOM_SEED: [0, 1, 2]}"
    assert said(tmp_path, both, "set_mixed", "task_tokens") == []
    apart = (
        "axes: {form: {mixed: {}, paired: {}}, rates: {ratio: [1, 4], when: {form: mixed}}, "
        "LAMBDA: {values: [1, 2], when: {form: paired}}, RANDOM_SEED: [0, 1, 2]}"
    )
    (line,) = said(tmp_path, apart, lambda run: Setting(f"set_{run.values['form']}", "task_tokens"))
    assert "axis 'rates' does not change the weight of the tasks in 6 of 6 runs" in line


def test_a_weight_between_tasks_of_a_single_task(tmp_path):
    text = "axes: {form: {label: {}, paired: {}}, LAMBDA: [1, 2], RANDOM_SEED: [0, 1, 2]}"
    (line,) = said(tmp_path, text, lambda run: Setting(f"set_{run.values['form']}", "task_tokens"))
    assert "axis 'LAMBDA' changes nothing in 6 of 12 runs: set_label trains one task" in line
    text = (
        "axes: {form: {label: {}, paired: {}}, LAMBDA: {values: [1, 2], when: {form: paired}}, RANDOM_SEED: [0, 1, 2]}"
    )
    assert said(tmp_path, text, lambda run: Setting(f"set_{run.values['form']}", "task_tokens")) == []


def test_few_seeds(tmp_path):
    assert said(tmp_path, "axes: {LEARNING_RATE: [1]}", "set_label")[0].startswith("1 seed per setting")
    assert said(tmp_path, "axes: {RANDOM_SEED: [0, 1]}", "set_label")[0].startswith("2 seeds per setting")
    axes = "axes: {LEARNING_RATE: [1, 2, 3], RANDOM_SEED: [0, 1]}"
    more = f"{axes}\nmore: [{{LEARNING_RATE: [1, 3], RANDOM_SEED: [2, 3, 4, 5]}}]"
    assert said(tmp_path, more, "set_label") == [
        "1 of 3 settings has fewer than 3 seeds (2): an interval over fewer than 3 seeds is unreliable; add values of "
        "RANDOM_SEED"
    ]
    assert said(tmp_path, more.replace("[1, 3]", "[1, 2, 3]"), "set_label") == []
    search = "axes: {LEARNING_RATE: {low: 1, high: 2}, RANDOM_SEED: [0, 1]}\ndesign: {kind: optuna, trials: 2}"
    assert said(tmp_path, search, "set_label")[0].startswith("2 seeds per setting")


def test_an_axis_that_changes_nothing_in_any_run_is_refused(tmp_path):
    with pytest.raises(SweepError) as caught:
        refuse_idle_axes(*described(tmp_path, RATES, "set_paired"))
    told = "axis 'rates' (levels 1:1, 4:1) changes nothing in any run: set_paired draws no mixture; set FORM=mixed, or "
    assert str(caught.value).startswith(told)
    refuse_idle_axes(*described(tmp_path, RATES, "set_mixed"))
    text = "axes: {LAMBDA: [1, 2], RANDOM_SEED: [0, 1, 2]}"
    for task in ("set_label", "set_rationale", "FORM=shared_label"):
        with pytest.raises(SweepError, match=rf"^axis 'LAMBDA' \(levels 1, 2\) .*{task} trains one task"):
            refuse_idle_axes(*described(tmp_path, text, task))
    refuse_idle_axes(*described(tmp_path, text, "set_single"))  # λ weighs the rationale's tokens of its target
    assert said(tmp_path, text, "set_single") == []


def test_an_axis_of_seeds_under_another_name_is_refused(tmp_path):
    text = "axes: {seed: {values: [0, 1], macro: RANDOM_SEED}}"
    with pytest.raises(
        SweepError, match=r"^axis 'seed' \(levels 0, 1\) .*: it sets the seed; name the axis RANDOM_SEED"
    ):
        refuse_idle_axes(*described(tmp_path, text, "set_paired"))


def test_levels_with_the_same_configuration_are_refused(tmp_path):
    text = "axes: {size: {a: {}, b: {}}, LAMBDA: [1, 2], RANDOM_SEED: [0, 1]}"

    def alike(run):
        return Setting("set_paired", "task_tokens", run.values["LAMBDA"])

    with pytest.raises(SweepError, match=r"^axis 'size' \(levels a, b\) changes nothing in any run: every level gives"):
        refuse_idle_axes(*described(tmp_path, text, alike))
    refuse_idle_axes(*described(tmp_path, text, lambda run: Setting("set_paired", "task_tokens", repr(run.values))))
    refuse_idle_axes(*described(tmp_path, text, "set_paired"))  # nothing is known about their configurations

    def alike_at_1(run):
        return Setting("set_paired", "task_tokens", f"{run.values['size']}{run.values['LAMBDA']}".replace("b1", "a1"))

    refuse_idle_axes(*described(tmp_path, text, alike_at_1))
    alone = "axes: {size: {a: {}}, RANDOM_SEED: [0, 1]}"
    refuse_idle_axes(*described(tmp_path, alone, lambda run: Setting("set_paired", "task_tokens", "x")))


def test_a_point_that_equals_another_setting_is_named(tmp_path):
    """It would be trained again, and tests would count one more pair of settings."""
    text = "axes: {LAMBDA: [1, 3], RANDOM_SEED: [0, 1, 2]}\nmore:\n- {LAMBDA: 1, LEARNING_RATE: 0.003}\n"

    def setting(run):
        rate = run.values.get("LEARNING_RATE", "0.003")
        return Setting("set_mixed", "all_tokens", f"[('LAMBDA', {run.values['LAMBDA']}.0), ('LEARNING_RATE', {rate})]")

    (line,) = said(tmp_path, text, setting)
    assert line.startswith("[LAMBDA=1] and [LAMBDA=1, LEARNING_RATE=0.003] have equal configurations: each is trained")
    assert said(tmp_path, text.replace("0.003", "0.001"), setting) == []
    (line,) = said(
        tmp_path, text, lambda run: Setting("set_mixed", "all_tokens", "A = 16" + ".0" * len(run.values["LAMBDA"]))
    )
    assert line.startswith("[LAMBDA=1] and [LAMBDA=3] and [")


def test_a_point_of_more_that_repeats_one_of_the_sweep_is_named(tmp_path):
    text = "axes: {rates: {ratio: ['1:1', '1:3']}, RANDOM_SEED: [0, 1, 2]}\nmore: [{rates: ['3:3', 2]}, {rates: '2:6'}]"
    (line,) = said(tmp_path, text, "set_mixed")
    assert line == "'more' repeats 2 points of the sweep, which are trained once: [rates=1:1] and 1 more"


def test_equal_budgets_of_the_reference_are_meant(tmp_path):
    text = "axes: {m: {a: {}, b: {}}, budget: {budget: [steps, compute], reference: {m: a}}, RANDOM_SEED: [0, 1, 2]}"
    assert said(tmp_path, text, lambda run: Setting("set_mixed", "all_tokens", run.values["m"])) == []
