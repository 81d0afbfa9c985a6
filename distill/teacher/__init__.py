"""Phase 1: a large language model answers and explains its answers. Imports neither JAX nor TensorFlow."""

from distill.teacher.assembly.provenance import summarise
from distill.teacher.assembly.selection import Rules
from distill.teacher.clients.cost import Estimate, Prices
from distill.teacher.clients.local import LocalConfig
from distill.teacher.clients.recorded import RecordedConfig, record
from distill.teacher.clients.replies import Sampling, TeacherError, TeacherSettingsError, TeacherStoppedError
from distill.teacher.clients.server_config import ServerConfig
from distill.teacher.clients.store import ReplyStore, StoreError
from distill.teacher.job.config import ExtractConfig, ExtractionStoppedError, ExtractReport
from distill.teacher.job.dry_run import estimate
from distill.teacher.job.extraction import extract, extract_async
from distill.teacher.prompts.prompt import Prompt, PromptError

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
    "TeacherSettingsError",
    "TeacherStoppedError",
    "estimate",
    "extract",
    "extract_async",
    "record",
    "summarise",
]
