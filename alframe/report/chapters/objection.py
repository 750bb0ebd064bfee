"""A warning of the protocol checks, and how values and folders are put into its words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_NAMED = 3


@dataclass(frozen=True)
class ProtocolWarning:
    """`name` is stable, for scripts; `found` has the folders and values, `advice` says what to do. `grave`: no verdict holds."""

    name: str
    found: str
    advice: str
    grave: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.found} {self.advice}"


def among(found: Mapping[str, Sequence[Path]]) -> str:
    """`2.14 (3 runs, the first <folder>), 2.15 (<folder>)`."""

    def told(value: str, folders: Sequence[Path]) -> str:
        where = str(folders[0]) if len(folders) == 1 else f"{len(folders)} runs, the first {folders[0]}"
        return f"{value} ({where})"

    return ", ".join(told(value, folders) for value, folders in list(found.items())[:MAX_NAMED]) + more(len(found))


def first(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    return ", ".join(names[:MAX_NAMED]) + more(len(names))


def more(n: int) -> str:
    return f", and {n - MAX_NAMED} more" if n > MAX_NAMED else ""


def spell(value: object) -> str:
    """As YAML has it: `true`, `null`, `0.1`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
