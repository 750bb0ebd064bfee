"""Files of a run folder: written whole or not at all, read with damage named."""

import json
import os
from pathlib import Path
from typing import Any

from alframe.errors import RunFolderError

HOW_ASKED = ("annotator.quorum", "annotator.separator", "annotator.show_prediction")
GOES_ON = ("budget.rounds", "annotator.new_classes", *HOW_ASKED)
"""Options that a run may be given other values of while it goes on: more rounds, classes that people found, how people are asked."""


def write_atomically(path: Path, text: str) -> None:
    """The whole file or the old one: temporary file beside it, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a full disk is not filled further
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the new name is on the disk too, before anything is built on it
    finally:
        os.close(directory)


def read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """The object in a JSON file of ours, or None where there is no file. Raises `RunFolderError` for a damaged one."""
    if not path.exists():
        return None
    return _object(path.read_bytes(), keys, str(path))


def read_jsonl(path: Path, keys: tuple[str, ...] = (), *, mend: bool = True) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn last line is passed over, and with `mend` cut off the file.

    Only who holds the run's lock may mend: the line may be one that another process is writing. Raises `RunFolderError` for any
    other damage.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    lines = []
    for number, text in enumerate(whole.splitlines(), 1):
        lines.append(_object(text, keys, f"line {number} of {path}"))
    if mend and len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    return lines


def _object(text: bytes, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """The JSON object in `text`, which must have `keys`."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or any(key not in value for key in keys):
        raise RunFolderError(
            f"Expected a JSON object with {', '.join(keys)} in {where}, got {text[:60]!r}; "
            "restore the file from a backup, or start again with run.overwrite=true."
        )
    return value
