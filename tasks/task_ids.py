"""Ids of the two tasks, stored per target token."""

PAD = 0
LABEL = 1
RATIONALE = 2

NAMES = {PAD: "pad", LABEL: "label", RATIONALE: "rationale"}


def one_task(task_name: str) -> bool:
    """Whether all target tokens of a form are of one task, so that λ has nothing to weigh.

    The form ``single`` has tokens of both tasks in one target, which λ weighs.

    Args:
      task_name: a task, a form, or ``FORM=…``.

    >>> [one_task(name) for name in ("svamp_label", "FORM=shared_rationale", "svamp_single", "paired")]
    [True, True, False, False]
    """
    return task_name.endswith(("label", "rationale"))
