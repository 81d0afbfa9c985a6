"""Two synthetic sweeps and what the report makes of them, shared by the tests of its modules."""

import pytest

from distill.experiments.report import analysis, collect, settings
from tests.distill.experiments.report import synthetic


def analysed(directory, **options):
    """The collection and the analysis of a folder whose runs have one set of test rows."""
    collection = collect.collect([directory])
    chosen = analysis.Options(**options)
    (part,) = settings.parts(collection, chosen.data)
    return collection, analysis.analyse(part, chosen)


@pytest.fixture(scope="session")
def methods(tmp_path_factory):
    """The folder of a sweep of two methods and three amounts of data."""
    return synthetic.methods(tmp_path_factory.mktemp("methods"), number=150)


@pytest.fixture(scope="session")
def rates(tmp_path_factory):
    """The folder of a sweep of two normalisers and six rates."""
    return synthetic.rates(tmp_path_factory.mktemp("rates"), number=150)


@pytest.fixture(scope="session")
def methods_analysis(methods):
    return analysed(methods, price_per_chip_hour=1.5)


@pytest.fixture(scope="session")
def rates_analysis(rates):
    return analysed(rates)
