"""Two-task distillation inside T5X: a model, a trainer and a data source for ``python -m t5x.train``.

T5X is not on the package registry (docs/t5x.md, Installation); nothing outside this package imports it.
"""
