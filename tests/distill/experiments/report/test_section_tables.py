"""Tables: pairs that cannot be distinguished name the seeds needed; many settings keep the table of differences narrow."""

from distill.experiments.report import section_tables
from distill.experiments.report.blocks import Table


def test_pairs_that_cannot_be_distinguished_have_a_need(rates_analysis):
    blocks = section_tables.comparisons_blocks(rates_analysis[1])
    (table,) = [block for block in blocks if isinstance(block, Table)]
    verdicts = {row[8].text for row in table.rows}
    assert verdicts == {"first is better", "cannot be distinguished"}
    assert all((row[9] == "–") == (row[8].text == "first is better") for row in table.rows)
    assert table.headers[3] == "shared seeds" and {row[3] for row in table.rows} == {"5"}
    assert blocks[0].text.startswith("The verdicts rest on p corrected. McNemar's test of a pair and Cochran's Q over")
    assert ", on 5 seeds that all have) are checks that use one seed at a time" in blocks[0].text


def test_differences_of_many_settings_are_lists(rates_analysis, methods_analysis):
    (table,) = section_tables.configuration_blocks(rates_analysis[1])
    assert [row[0] for row in table.rows] == ["LABEL_RATE", "NORMALIZER", "RATIONALE_RATE"]
    assert table.rows[1][1] == "task_tokens; all_tokens"
    (table,) = section_tables.configuration_blocks(methods_analysis[1])
    assert len(table.headers) == 7 and table.wide


def test_the_rows_section_has_kinds_and_examples(methods_analysis):
    names = [type(block).__name__ for block in section_tables.rows_blocks(methods_analysis[1], "")]
    assert names == ["Text", "Table", "Examples"]
    (table,) = section_tables.provenance_blocks(methods_analysis[1])
    assert ("jax", "0.8.1") in table.rows
    assert section_tables.cost_blocks(methods_analysis[1])


def test_settings_by_effective_lambda_name_rates_and_normaliser(rates_analysis, methods_analysis):
    (table,) = section_tables.weight_blocks(rates_analysis[1])
    assert table.headers[:5] == ("setting", "LABEL_RATE:RATIONALE_RATE", "NORMALIZER", "LAMBDA", "effective λ")
    assert len(table.rows) == 12
    assert table.rows[0][1:5] == ("8:1", "all_tokens", "1", "0.3") and table.rows[-1][1:5] == (
        "1:4",
        "all_tokens",
        "1",
        "9.6",
    )
    assert sum(row[0].mark == "best" for row in table.rows) == 1
    assert section_tables.weight_blocks(methods_analysis[1]) == [], "no setting differs in what weighs the tasks"
