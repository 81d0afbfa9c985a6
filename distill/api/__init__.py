"""The Python interface: ``distill.train``, ``load``, ``evaluate`` and the like; and gin files, which the command line uses too.

:mod:`distill` exports the public names lazily. Import them from there.
"""
