"""Tokenised data sets as files: ``distill cache`` writes them once, and every process of every run reads them."""

from distill.data.cache.build import build
from distill.data.cache.opening import check_rows
from distill.data.cache.read import CachedExamples, counts, known_rows

__all__ = ["CachedExamples", "build", "check_rows", "counts", "known_rows"]
