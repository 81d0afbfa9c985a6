"""Tokenised data sets as files: ``distill cache`` writes them once, and every process of every run reads them."""

from distill.cache.build import build
from distill.cache.read import CachedExamples

__all__ = ["CachedExamples", "build"]
