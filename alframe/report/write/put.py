"""Files that are written whole or not at all."""

from pathlib import Path


def put(path: Path, content: str | bytes) -> Path:
    """Write a file atomically: a reader finds the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
