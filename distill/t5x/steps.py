"""Step numbers of a run from a pretrained checkpoint: T5X continues the step count of pretraining."""

import re


def first_step(checkpoint_path: str | None) -> int:
    """Returns the step of a T5X checkpoint, from its name; 0 for None (a run from random parameters).

    >>> first_step("gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000")
    1000000

    Raises:
      ValueError: the name does not end in a step.
    """
    if not checkpoint_path:
        return 0
    match = re.search(r"(?:^|[/_-])(\d+)/?$", checkpoint_path)
    if match is None:
        raise ValueError(
            "expected a T5X checkpoint whose name ends in its step, as in …/checkpoint_1000000; got "
            f"{checkpoint_path!r}. Bind train.total_steps yourself"
        )
    return int(match[1])


def total_steps(relative_steps: int, checkpoint_path: str | None) -> int:
    """Returns the step at which to stop: the pretrained checkpoint's step plus ``relative_steps``.

    T5X's own ``relative_steps`` counts from the step at which a run restarts, so a run killed half-way would train half
    as long again. This function counts from the initial checkpoint only.

    >>> total_steps(10_000, "checkpoint_1000000")
    1010000

    Raises:
      ValueError: ``relative_steps`` is below 1, or the checkpoint's name does not end in a step.
    """
    if relative_steps < 1:
        raise ValueError(f"relative_steps must be ≥ 1; got {relative_steps}")
    return first_step(checkpoint_path) + relative_steps
