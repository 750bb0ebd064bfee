"""How a run came about: initial images, versions, source, device, near-duplicates."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alframe.record.layout import LEDGER, PROVENANCE


@dataclass(frozen=True)
class Evidence:
    """What the files of a run folder record; None or empty where they do not.

    `initial` holds the ids of the images bought before round 0, validation images too. `versions` and `devices` are those
    of all launches: a run that was resumed elsewhere has several.
    """

    initial: frozenset[str] | None = None
    versions: dict[str, frozenset[str]] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    test_hash: str | None = None
    n_test: int | None = None
    near_duplicates: dict[str, Any] | None = None
    searched_for_duplicates: bool = False
    grows: bool = False

    @property
    def test_set(self) -> str:
        """`0123abcd (40 images)`, as far as known."""
        return f"{(self.test_hash or 'unknown')[:8]}" + ("" if self.n_test is None else f" ({self.n_test:,} images)")


def parsed(text: str) -> Any:
    """The value of a line of JSON, or None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def mapping(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, if it can be read and is a mapping."""
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None


def read_evidence(folder: Path) -> Evidence:
    """The evidence in a run folder. Missing or damaged files give no evidence and raise nothing."""
    provenance = mapping(folder / PROVENANCE)
    if provenance is None:
        return Evidence(initial=_initial(folder / LEDGER))
    launches = provenance.get("launches")
    launches = [launch for launch in launches if isinstance(launch, dict)] if isinstance(launches, list) else []
    found, n_test, test_hash = (provenance.get(key) for key in ("near_duplicates", "n_test", "test_hash"))
    return Evidence(
        initial=_initial(folder / LEDGER),
        versions=_versions(launches),
        devices=frozenset(filter(None, map(_device, launches))),
        test_hash=test_hash if isinstance(test_hash, str) else None,
        n_test=n_test if isinstance(n_test, int) else None,
        near_duplicates=found if isinstance(found, dict) else None,
        searched_for_duplicates="near_duplicates" in provenance,
        grows=provenance.get("grows") is True,
    )


def _initial(ledger: Path) -> frozenset[str] | None:
    """The ids in the ledger's lines of round 0, which come first; None if there is no ledger or a line is not an answer."""
    ids = []
    try:
        with ledger.open(encoding="utf-8") as file:
            for text in file:
                line = parsed(text)
                if line["round"] > 0:
                    break
                ids.append(str(line["id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return frozenset(ids)


def _versions(launches: Iterable[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """The versions of each package, and under `source` the commit that ran, marked if the sources had changes."""
    seen: dict[str, set[str]] = {}
    for launch in launches:
        versions, git = launch.get("versions"), launch.get("git")
        for package, version in versions.items() if isinstance(versions, dict) else ():
            seen.setdefault(package, set()).add(str(version))
        if isinstance(git, dict):
            diff = str(git.get("diff") or "")
            mark = f" with changes {hashlib.sha256(diff.encode()).hexdigest()[:6]}" if diff else ""
            seen.setdefault("source", set()).add(f"{str(git.get('commit'))[:10]}{mark}")
    return {package: frozenset(versions) for package, versions in seen.items()}


def _device(launch: dict[str, Any]) -> str | None:
    """The kind of device, for a GPU with its name; CPUs of different makes differ only by rounding."""
    device = launch.get("device")
    if not isinstance(device, dict) or not device.get("type"):
        return None
    return str(device["type"]) if device["type"] == "cpu" else f"{device['type']} {device.get('name', '')}".strip()
