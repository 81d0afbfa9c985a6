"""Writes small files of a model directory."""

from etils import epath


def replace_text(path: epath.Path, text: str) -> None:
    """Replaces a file atomically: a reader, or a restart after this process was killed, sees the old or the new text."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
