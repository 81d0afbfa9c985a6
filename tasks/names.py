"""The names of a data set's SeqIO tasks."""

import difflib

from tasks.dataset import Dataset

FORMS = ("label", "rationale", "single", "mixed", "paired")


def task_name(dataset: Dataset | str, form: str) -> str:
    """``<set>_<form>``: the task or mixture of a data set.

    Args:
      dataset: the data set or its name.
      form: ``label``, ``rationale``, ``single`` (both in one target), ``mixed`` (a mixture with rates) or ``paired``.

    Raises:
      ValueError: an unknown form.
    """
    if form not in FORMS:
        near = difflib.get_close_matches(str(form), FORMS, n=1)
        raise ValueError(
            f"form must be one of {', '.join(FORMS)}; got {form!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return f"{dataset if isinstance(dataset, str) else dataset.name}_{form}"
