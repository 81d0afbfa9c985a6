"""Truncates a token sequence so that it still ends in EOS."""

import numpy as np

EOS_ID = 1


def cut(tokens: np.ndarray, length: int, last: int | None = EOS_ID) -> np.ndarray:
    """Returns the first ``length`` entries; if any were removed, the last of them becomes ``last`` (EOS).

    A sequence of exactly ``length`` entries without ``last`` at its end was truncated by SeqIO, which does not keep EOS.
    Its last entry becomes ``last``, too.
    """
    if len(tokens) < length or (len(tokens) == length and (last is None or length == 0 or tokens[-1] == last)):
        return tokens
    short = np.array(tokens[:length])
    if last is not None:
        short[-1] = last
    return short
