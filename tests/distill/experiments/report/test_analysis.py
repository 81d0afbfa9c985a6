"""Options are checked before any run is read."""

import pytest

from distill.experiments.report.analysis import Options
from distill.experiments.report.collect import ReportError
from tests.distill.experiments.report.conftest import analysed


def test_a_price_is_a_number():
    with pytest.raises(ValueError, match="--price_per_chip_hour must be a number of at least 0; got nan"):
        Options(price_per_chip_hour=float("nan"))


def test_the_metric_is_the_one_that_selected(methods_analysis, methods):
    assert methods_analysis[1].evidence.metric == "accuracy"
    with pytest.raises(ReportError, match="no test metric 'bleu'"):
        analysed(methods, metric="bleu")
