"""Files that are written whole or not at all."""

from pathlib import Path

from alframe.record.files import replacing


def put(path: Path, content: str | bytes) -> Path:
    """Write a file atomically: a reader finds the old or the new one, never half of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path
