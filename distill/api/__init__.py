"""The Python interface (``distill.train``, ``load``, ``evaluate`` …), and the gin files that the command line reads too.

:mod:`distill` exports the public names lazily. Import them from there.
"""
