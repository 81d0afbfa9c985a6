"""Lets Orbax use ``gs://`` without the google-cloud-storage package.

Orbax imports that package to find out whether a bucket has a hierarchical namespace, in which folders can be renamed.
TensorFlow's file system and TensorStore, which do all reading and writing, need it for nothing. Without the package every
bucket is treated as one with a flat namespace, the default of buckets: objects are written in place, and a step is
committed by its commit file. That is correct for the other kind, too.
"""

import importlib.util

from orbax.checkpoint._src.path import gcs_utils


def needs_no_storage_client() -> None:
    """Replaces Orbax's question about the namespace by the answer "flat" if the package is not installed."""
    try:
        found = importlib.util.find_spec("google.cloud.storage")
    except ModuleNotFoundError:
        found = None
    if found is None:
        gcs_utils.is_hierarchical_namespace_enabled = _is_flat


def _is_flat(path: object) -> bool:
    del path
    return False
