"""The names of a data set's SeqIO tasks."""

from distill import validation
from distill.tasks.dataset import Dataset

SHARED = "shared"
PROMPTED_FORMS = (SHARED, "shared_label", "shared_rationale")
"""Forms whose targets, not inputs, begin with the prefixes."""
FORMS = ("label", "rationale", "single", "mixed", "paired", *PROMPTED_FORMS, "spans")


def task_name(dataset: Dataset | str, form: str) -> str:
    """``<set>_<form>``: the task or mixture of a data set.

    Args:
      dataset: the data set or its name.
      form: ``label``, ``rationale``, ``single`` (both in one target), ``mixed`` (a mixture with rates) or ``paired``;
        with the prefixes in the targets: ``shared`` (both targets of one input), ``shared_label`` or ``shared_rationale``;
        of a corpus: ``spans``.

    Raises:
      ValueError: an unknown form.
    """
    validation.check("form", form, FORMS)
    return f"{dataset if isinstance(dataset, str) else dataset.name}_{form}"


def shares_encoder(form: str) -> bool:
    """Whether the sequences of the form's examples share one input, so that the encoder passes over it once."""
    return form == SHARED
