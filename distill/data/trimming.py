"""Cutting a token sequence to a length so that it still ends in EOS."""

import numpy as np

EOS_ID = 1


def cut(tokens: np.ndarray, length: int, last=EOS_ID) -> np.ndarray:
    """The first ``length`` entries, the last of them replaced by ``last`` (EOS) if any had to go.

    Entries that fill ``length`` and do not end in ``last`` were cut before, by SeqIO, which knows no EOS; they get it back.
    """
    if len(tokens) < length or (len(tokens) == length and (last is None or length == 0 or tokens[-1] == last)):
        return tokens
    short = np.array(tokens[:length])
    if last is not None:
        short[-1] = last
    return short
