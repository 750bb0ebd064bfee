"""Read run folders, for reports and commands: nothing is written, no lock is taken, and torch is not imported.

A torn last line is skipped, because another process may be writing it; other damage is a `RunFolderError`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from alframe.errors import RunFolderError
from alframe.record.files import read_json, read_jsonl
from alframe.record.layout import FORMAT, Layout

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LEDGER_KEYS = {"id": str, "index": int, "kind": str, "label": object, "round": int, "rank": int}
"""The keys of every ledger line; whether a label is one is for the pool to say."""
ROUND_KEYS = {"round": int, "labels": int}
QUESTION_KEYS = ("id", "index", "kind", "round", "rank")
MAPPINGS = ("choices", "resolved", "query", "costs")
"""Entries of a config that are mappings, where they are there; parts are checked when they are built."""


def read_config(folder: Path) -> dict[str, Any]:
    """The stored config of the run in `folder`, as plain values in the current format. Raises `RunFolderError`."""
    path = Layout(folder).config
    try:
        config = parse_config(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(
            f"Expected the folder of a run (with {path.name}), got {folder}; name one such as runs/<study>/<cell>/seed=0."
        ) from error
    # ValueError: not UTF-8, or an invalid date
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunFolderError(
            f"Expected the run's config in {path}, got a damaged file ({' '.join(str(error).split())[:80]}); restore it from a backup, "
            "or start over with run.overwrite=true."
        ) from error
    whole = isinstance(config, dict) and all(isinstance(key, str) for key in config)
    if not whole or not all(isinstance(config.get(key, {}), dict) for key in MAPPINGS):
        raise RunFolderError(
            f"Expected the run's config in {path}, got a damaged file; restore it from a backup, or start over with run.overwrite=true."
        )
    return config


def parse_config(text: str) -> Any:
    """A stored config in the current format; a non-mapping is returned unchanged. Raises YAML errors, and `RunFolderError`
    for a newer format.
    """
    config = yaml.load(text, LOADER)
    if not isinstance(config, dict):
        return config
    written_as = config.pop("format", 1)
    if not isinstance(written_as, int) or written_as > FORMAT:
        raise RunFolderError(
            f"Expected a run folder of format {FORMAT} or older, got format {written_as}; install the version of alframe that wrote it, or a newer one."
        )
    if written_as > 1:
        return config
    # in format 1 annotators were stored as partials, and budget.stop_at was called target
    annotator, budget = config.get("annotator"), config.get("budget")
    if isinstance(annotator, dict):
        config["annotator"] = {key: value for key, value in annotator.items() if key != "_partial_"}
    if isinstance(budget, dict) and "target" in budget:
        config["budget"] = {("stop_at" if key == "target" else key): value for key, value in budget.items()}
    return config


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The committed rounds, first to last."""
    return read_jsonl(Layout(folder).rounds, ROUND_KEYS, repair=False)


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Every answer, in order of arrival."""
    return read_jsonl(Layout(folder).ledger, LEDGER_KEYS, repair=False)


def read_provenance(folder: Path) -> dict[str, Any]:
    """Data and launches; empty before the first launch."""
    path = Layout(folder).provenance
    found = read_json(path, {"data_hash": str, "launches": list}) or {}
    launches = found.get("launches", [])
    if not all(isinstance(one, dict) and isinstance(one.get("device"), dict) for one in launches):
        raise RunFolderError(f"Expected launches with a device in {path}, got others; restore the file from a backup.")
    normal = found.get("normal") or []
    if not (isinstance(normal, list) and all(isinstance(name, str) for name in normal)):
        raise RunFolderError(
            f"Expected names of normal classes in {path}, got {normal}; restore the file from a backup."
        )
    return found


def first_threads(folder: Path) -> int | None:
    """CPU threads of the first launch, on which results depend; None in a new folder."""
    launches = read_provenance(folder).get("launches")
    return launches[0]["device"].get("threads") if launches else None


def read_planned(folder: Path, round: int | None, keys: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """What was stored for a round before anyone was asked, or None; `round` None: the initial purchase. `keys`: what it must have."""
    path = Layout(folder).planned(round)
    found = read_json(path, {"questions": list, **dict.fromkeys(keys, object)})
    for question in found["questions"] if found else ():
        if not isinstance(question, dict) or not all(key in question for key in QUESTION_KEYS):
            raise RunFolderError(
                f"Expected questions with {', '.join(QUESTION_KEYS)} in {path}, got {str(question)[:60]}; restore the file from a backup."
            )
    return found


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """`{'a': {'b': 1}}` -> `{'a.b': 1}`; empty for a non-mapping. Lists stay values."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        path = f"{prefix}.{key}" if prefix else str(key)
        leaves |= flat(value, path) if isinstance(value, Mapping) else {path: value}
    return leaves
