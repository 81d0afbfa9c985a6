"""Phase 1: a large language model answers, and says why. Needs neither JAX nor TensorFlow."""

from distill.teacher.cost import Estimate, Prices
from distill.teacher.dry_run import estimate
from distill.teacher.extraction import extract, extract_async
from distill.teacher.job import ExtractConfig, ExtractionStoppedError, ExtractReport
from distill.teacher.local import LocalConfig
from distill.teacher.prompt import Prompt, PromptError
from distill.teacher.provenance import summarise
from distill.teacher.recorded import RecordedConfig, record
from distill.teacher.replies import Sampling, TeacherError, TeacherStoppedError
from distill.teacher.selection import Rules
from distill.teacher.server import ServerConfig
from distill.teacher.store import ReplyStore, StoreError

__all__ = [
    "Estimate",
    "ExtractConfig",
    "ExtractReport",
    "ExtractionStoppedError",
    "LocalConfig",
    "Prices",
    "Prompt",
    "PromptError",
    "RecordedConfig",
    "ReplyStore",
    "Rules",
    "Sampling",
    "ServerConfig",
    "StoreError",
    "TeacherError",
    "TeacherStoppedError",
    "estimate",
    "extract",
    "extract_async",
    "record",
    "summarise",
]
