"""All questions that a report answers about one part, computed once."""

import dataclasses

from distill.experiments.report import answers, comparisons, cost, evidence, examples, history, optimum
from distill.experiments.report.settings import Cell, Part
from distill.tasks import metrics


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
      title: heading of the report; empty: made from the folders.
      metric: the test metric; empty: the one that validation selects by.
      data: which test rows, see :func:`distill.experiments.report.settings.parts`.
      compare: which pairs, see :func:`distill.experiments.report.comparisons.compare`.
      price_per_chip_hour: in any currency; None shows no prices.
      seed: of the bootstrap.
    """

    title: str = ""
    metric: str = ""
    data: str = ""
    compare: str = ""
    price_per_chip_hour: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.price_per_chip_hour is not None and not 0 <= self.price_per_chip_hour < float("inf"):
            raise ValueError(f"--price_per_chip_hour must be a number of at least 0; got {self.price_per_chip_hour}")


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Answers about a part; an absent answer is None or empty.

    Attributes:
      evidence: the scores.
      selected: the setting that validation selected.
      headlines: pairs that the summary speaks about.
      family: all comparisons.
      shares: shares of the data that equal standard training; none for a metric whose lowest value is the best.
      teacher: the teacher's answers.
      smallest: the smallest models that beat the teacher.
      optima: the best effective λ of each line; likewise.
      unfitted: lines along λ whose best value is not estimated.
      costs: of each setting.
      before: the students before distillation.
      changes: rows that change most in each headline.
    """

    evidence: evidence.Evidence
    selected: Cell
    headlines: tuple[comparisons.Headline, ...]
    family: comparisons.Family
    shares: tuple[answers.EqualShare, ...]
    teacher: answers.Teacher | None
    smallest: tuple[answers.SmallestModel, ...]
    optima: tuple[optimum.Optimum, ...]
    unfitted: tuple[optimum.Unfitted, ...]
    costs: cost.Costs
    before: history.Before | None
    changes: tuple[examples.Changes, ...]

    @property
    def part(self) -> Part:
        """The settings."""
        return self.evidence.part

    @property
    def nothing_learned(self) -> bool:
        """Whether no run has a right answer to a test row, so that there is nothing to compare."""
        evidence = self.evidence
        return evidence.metric == "accuracy" and not any(evidence.cell_interval(cell).value for cell in self.part.cells)


def analyse(part: Part, options: Options) -> Analysis:
    """Computes all answers about a part.

    Raises:
      ReportError: a run lacks the metric, or an option names nothing.
    """
    selecting = str(part.runs[0].record["selection"]["metric"])
    metric = options.metric or selecting
    # The best λ is a maximum, and a share of the data reaches a score from below: neither is looked for in a loss.
    rising = all(map(metrics.higher_is_better, (metric, selecting)))
    found = evidence.gather(part, metric, seed=options.seed)
    heads = comparisons.headlines(found, options.compare)
    teacher = answers.teacher(part)
    changed = [examples.changes(found, head.a, head.b) for head in heads]
    return Analysis(
        found,
        comparisons.selected(found),
        tuple(heads),
        comparisons.compare(found, options.compare),
        tuple(answers.equal_shares(found)) if rising else (),
        teacher,
        tuple(answers.smallest_models(found, teacher)) if teacher else (),
        tuple(optimum.optima(found, seed=options.seed)) if rising else (),
        tuple(optimum.unfitted(found)) if rising else (),
        cost.costs(found, options.price_per_chip_hour),
        history.before(found),
        tuple(each for each in changed if each is not None),
    )
