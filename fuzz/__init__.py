"""Fuzz targets for every reader of data that this program did not write itself.

``targets`` names the readers, ``mutations`` makes damaged inputs from good ones, ``guard`` notices forbidden effects, and
``python -m fuzz`` runs targets under atheris. ``tests/fuzz`` runs the same targets under hypothesis with a small budget.
"""
