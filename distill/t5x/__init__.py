"""Two-task distillation inside T5X: a Model, a Trainer and a data feed for ``python -m t5x.train``.

T5X is not on the package registry (``pip install ".[t5x]"`` fetches it); nothing outside this package imports it.
"""
