"""Tokenised data sets as files: ``distill cache`` writes them once, and every process of every run reads them."""

from distill.data.cache.build import build
from distill.data.cache.read import CachedExamples

__all__ = ["CachedExamples", "build"]
