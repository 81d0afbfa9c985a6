"""Tokenised data sets as files: written once by ``distill cache``, read by every process of every run."""

from distill.cache.build import build
from distill.cache.read import CachedExamples

__all__ = ["CachedExamples", "build"]
