"""The next runs in words."""

from distill.experiments.report import next_runs, proposals


def test_the_next_runs_of_each_line_have_a_reason_and_a_complete_setting(rates_analysis):
    found = rates_analysis[1]
    (first, _), (second, (_, file)) = proposals.next_sentences(found)
    assert first == (
        "Next (all_tokens): 10 runs, 5 × λ = 0.075 (LABEL_RATE:RATIONALE_RATE about 32:1), 5 × λ = 0.15 "
        "(LABEL_RATE:RATIONALE_RATE about 16:1), because the maximum may be at λ below 0.3. All other settings stay: "
        "NORMALIZER all_tokens, and all that the settings share."
    ), "the interval of the best λ is open below"
    assert second.startswith("Next (task_tokens): 20 runs, ") and "\n  LAMBDA: [" in file


def test_runs_that_narrow_an_interval_say_by_how_much():
    narrow = next_runs.Proposal("narrow", (next_runs.NextRun(2.0, 5, "LAMBDA about 2", True),), width=0.7)
    assert proposals.proposal_text(narrow) == (
        "Next: 5 more runs, 5 × λ = 2 (LAMBDA about 2, new seeds), narrow the interval most; its width becomes about 70 % "
        "of now."
    )
    assert proposals.recipe_text(narrow) == ("", "") and proposals.of_line("all settings") == ""
