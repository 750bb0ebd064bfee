"""Atomic writes, and reads that report damage."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alframe.errors import RunFolderError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file is renamed to `path` once it is complete and on the disk.

    If the body raises, the old file stays and the temporary one is deleted, so that a full disk gets no fuller.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename is on the disk too, before anything depends on it
    finally:
        os.close(directory)


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write the whole file, or keep the old one; returns `path`. What is no text, in a file's name, becomes an escape that JSON reads."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    return path


def append_synced(path: Path, text: str) -> None:
    """Append to a file, and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


Keys = Mapping[str, type | tuple[type, ...]]
"""Keys that an object must have, with the types of their values."""


def read_json(path: Path, keys: Keys | tuple[str, ...] = ()) -> dict[str, Any] | None:
    """The object in one of our JSON files, or None if there is no file. Raises `RunFolderError` for a damaged one."""
    if not path.exists():
        return None
    return _object(path.read_bytes(), keys, str(path))


def read_jsonl(path: Path, keys: Keys | tuple[str, ...] = (), *, repair: bool = True) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn last line is skipped, and with `repair` removed from the file.

    Only the owner of the run's lock may repair, because another process may be writing that line. Raises `RunFolderError`
    for any other damage.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    lines = [_object(text, keys, f"line {number} of {path}") for number, text in enumerate(whole.splitlines(), 1)]
    if repair and len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    return lines


def _object(text: bytes, keys: Keys | tuple[str, ...], where: str) -> dict[str, Any]:
    """The JSON object in `text`, which must have `keys`."""
    types = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, object)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(key in value and isinstance(value[key], types[key]) for key in types):
        wanted = f" with {', '.join(keys)}" if keys else ""
        raise RunFolderError(
            f"Expected a JSON object{wanted} in {where}, got {text[:60]!r}; "
            "restore the file from a backup, or start over with run.overwrite=true."
        )
    return value
