"""The run folder: config, provenance, ledger, queries, rounds, checkpoints, and the TensorBoard board beside them.

Order of writes in a round: the stage file `queries/round_###.json` (metrics and questions, atomically) before anyone is asked;
a ledger line for each answer; at last the line in `rounds.jsonl`, which makes the round done. A process killed at any instant
leaves a folder from which the same command goes on to the same result.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout

from alframe.annotator.queue import has_answers
from alframe.board import Board
from alframe.contact_sheet import write_contact_sheet
from alframe.errors import RunFolderError, expect
from alframe.pool import Ledger, n_bought
from alframe.provenance import launch
from alframe.storage import HOW_ASKED, read_json, read_jsonl, write_atomically


class Record:
    """One run's folder, held by one process. `config` is all that can change a result, as plain values."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        overwrite: bool = False,
        tensorboard: bool = True,
        keep_checkpoint: bool = False,
    ) -> None:
        self.folder, self.config, self.keep_checkpoint = folder, config, keep_checkpoint
        self._lock = self._take(folder)
        try:
            expect(
                not (overwrite and has_answers(folder)),
                f"Expected a run without answers of people to start again, since run.overwrite=true removes all of it, got {folder} with "
                "some in queue/ or the ledger, or with a project in Label Studio, where some may be; use another run.name, or move the folder away.",
                RunFolderError,
            )
            _discard(folder, begin=overwrite)
            extends, changed = self._compare_config()
            self.reopened = False
            self.rounds: list[dict[str, Any]] = read_jsonl(folder / "rounds.jsonl", ("round", "labels"))
            if extends:
                self._reopen_last_round()
            if changed or not (folder / "config.yaml").exists():
                # Last, so that a launch that is killed before this extends again.
                write_atomically(folder / "config.yaml", _yaml(config))
            self.ledger = Ledger(folder / "ledger.jsonl")
            self._rounds_file = (folder / "rounds.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise RunFolderError(
                f"Expected a run folder that can be written, got: {error}; choose another run.root."
            ) from error
        except BaseException:
            self._lock.release()
            raise
        self.board: Board | None = None
        self._tensorboard = tensorboard

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def done(self) -> int:
        """Rounds committed."""
        return len(self.rounds)

    @property
    def stopped(self) -> str | None:
        """Why the run is finished, or None."""
        return self.rounds[-1].get("stopped") if self.rounds else None

    @property
    def finished(self) -> bool:
        """Stopped, and every answer of its rounds in the ledger (a torn last line may be missing)."""
        return self.stopped is not None and self.bought(self.rounds[-1]["round"]) == self.rounds[-1]["labels"]

    def bought(self, round: int) -> int:
        """Labels bought up to and including those that `round` was trained on."""
        count_validation = self.config.get("budget", {}).get("count_validation", True)
        lines = [line for line in self.ledger.lines if line["round"] <= round]
        return n_bought(lines, count_validation)

    def check_books(self) -> None:
        """Raise `RunFolderError` unless ledger, rounds and stored queries tell one story."""
        numbers = [line["round"] for line in self.rounds]
        last = max((line["round"] for line in self.ledger.lines), default=0)
        known = self.done + 1 if self.stage(f"round_{self.done:03d}") else self.done
        if numbers != list(range(self.done)):
            wrong = f"rounds {numbers} in rounds.jsonl"
        elif last > known:
            wrong = f"answers of round {last} in ledger.jsonl after {self.done} rounds"
        else:
            short = [line for line in self.rounds if self.bought(line["round"]) != line["labels"]]
            if not short:
                return
            wrong = f"{self.bought(short[0]['round'])} answers where round {short[0]['round']} had {short[0]['labels']} labels"
        raise RunFolderError(
            f"Expected ledger, rounds and queries of {self.folder} to fit together, got {wrong}; "
            "restore the folder from a backup, or start again with run.overwrite=true."
        )

    def stage(self, name: str) -> dict[str, Any] | None:
        """What was stored under `name` ('initial', 'round_003'), or None."""
        keys = ("questions",) if name == "initial" else ("line", "evaluation", "questions", "pool_scores")
        return read_json(self.folder / "queries" / f"{name}.json", keys)

    def store_stage(self, name: str, stage: Mapping[str, Any]) -> None:
        """Store a stage atomically. It is never recomputed once this returns."""
        write_atomically(self.folder / "queries" / f"{name}.json", json.dumps(stage))

    def checkpoint(self, round: int) -> Path:
        return self.folder / "checkpoint" / f"round_{round:03d}.safetensors"

    # -- events ------------------------------------------------------------------------------------------------------

    def begin(self, data: Mapping[str, Any], device: torch.device) -> None:
        """Note where and on what this launch runs, and open TensorBoard at the first round that is not committed.

        Raises `RunFolderError` when the data are not those of the earlier launches.
        """
        path = self.folder / "provenance.json"
        past = read_json(path, ("data_hash", "launches")) or {}
        if past and past["data_hash"] != data["data_hash"]:
            raise RunFolderError(
                f"Expected the data this run began with (hash {past['data_hash'][:12]}), got others ({data['data_hash'][:12]}); "
                "give the old data back, or use another run.name."
            )
        launches = [*past.get("launches", []), launch(device)]
        write_atomically(path, json.dumps({**data, "launches": launches}, indent=1))
        if self._tensorboard:
            self._open_board()

    def commit(
        self,
        line: dict[str, Any],
        stage: Mapping[str, Any],
        images: np.ndarray | None,
        answers: list[int | None],
        classes: tuple[str, ...],
        summary: Mapping[str, float] | None = None,
        nearest: np.ndarray | None = None,
    ) -> None:
        """Make the round done. TensorBoard and the contact sheet of the queried `images` (in the questions' order) come first: of an
        undone round, the events are purged at the next launch and the sheet is written again.

        The last round brings a `summary`, the run's final numbers, for TensorBoard's HParams page. `nearest` are the labelled
        images that are most like the first of the queried, for TensorBoard.
        """
        self.ledger.sync()
        if images is not None and len(images):
            ranked = sorted(range(len(images)), key=lambda i: (stage["questions"][i]["rank"], i))
            write_contact_sheet(self.folder / "queries" / f"round_{line['round']:03d}.jpg", images[ranked])
        if self.board:
            self.board.round(line, stage["evaluation"])
            if stage["questions"]:
                scores = stage["pool_scores"]
                self.board.query(line["labels"], images, stage["questions"], answers, classes, scores, nearest)
            if summary is not None:
                self.board.finish(_hparams(self.config), dict(summary))
        self._rounds_file.write(json.dumps(line) + "\n")
        self._rounds_file.flush()
        os.fsync(self._rounds_file.fileno())
        self.rounds.append(line)
        # The round before the last one stays: a finished run that is given more rounds starts its last one again.
        self.checkpoint(line["round"] - 2).unlink(missing_ok=True)

    def close(self) -> None:
        if self.board:
            self.board.close()
        self.ledger.close()
        self._rounds_file.close()
        self._lock.release()

    # -- inside ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _take(folder: Path) -> FileLock:
        try:
            (folder / "queries").mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunFolderError(
                f"Expected {folder} to be free, got a folder that another process is running in; wait for it, or use another run.name."
            ) from error
        except OSError as error:
            raise RunFolderError(
                f"Expected a run folder that can be written, got: {error}; choose another run.root."
            ) from error
        return lock

    def _compare_config(self) -> tuple[bool, bool]:
        """Compare with the stored config, if any: whether budget.rounds has grown, and whether anything has changed that may."""
        path = self.folder / "config.yaml"
        if not path.exists():
            return False, False
        try:
            stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            stored = None
        if not isinstance(stored, dict):
            raise RunFolderError(
                f"Expected the run's config in {path}, got a damaged file; restore it, or start again with run.overwrite=true."
            )
        old, new = _flat(stored), _flat(yaml.safe_load(_yaml(self.config)))
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        grown = [key for key in differing if _may_change(key, old.get(key), new.get(key))]
        if differing == grown:
            return "budget.rounds" in grown, bool(grown)
        changes = ", ".join(f"{key} ({old.get(key)} -> {new.get(key)})" for key in differing)
        raise RunFolderError(
            f"Expected the config that {self.folder} began with, got other values of {changes}; "
            "use another run.name, or start again with run.overwrite=true."
        )

    def _reopen_last_round(self) -> None:
        """A finished run is given more rounds: its last one bought nothing, so it is undone, committed or not, and run again."""
        last = self.done - 1 if self.stopped else self.done
        stage = self.stage(f"round_{last:03d}")
        if stage is not None and stage["line"].get("stopped"):
            (self.folder / "queries" / f"round_{last:03d}.json").unlink()
            self.reopened = True
        if self.stopped:
            self.reopened = True
            self.rounds.pop()
            write_atomically(self.folder / "rounds.jsonl", "".join(json.dumps(line) + "\n" for line in self.rounds))

    def _open_board(self) -> None:
        begun = (self.folder / "tensorboard").exists()
        # What is purged are steps from the first undone round on. A committed round can share that step (all its answers were
        # skipped), so the committed rounds at that step are written again; without an earlier board, all of them are.
        step = self.bought(self.done)
        self.board = Board(self.folder / "tensorboard", purge_step=step if begun else None)
        if not begun:
            self.board.config(_yaml(self.config))
        for line in self.rounds:
            if not begun or line["labels"] == step:
                stage = self.stage(f"round_{line['round']:03d}")
                self.board.round(line, stage["evaluation"] if stage else None)


def _may_change(key: str, old: Any, new: Any) -> bool:
    """Whether a run may go on with the new value of an option: of `storage.GOES_ON`; rounds and classes may only be added."""
    if key == "annotator.new_classes":
        return isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old
    if old is None or new is None:
        return False
    return key in HOW_ASKED or (key == "budget.rounds" and new > old)


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _discard(folder: Path, *, begin: bool) -> None:
    """Remove everything in a run folder but the lock. A marker is set first and removed last, so that a kill leaves no half of it."""
    marker = folder / ".discarding"
    if begin:
        marker.touch()
    if not marker.exists():
        return
    for path in folder.iterdir():
        if path.name in (".lock", marker.name):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "queries").mkdir()
    marker.unlink()


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists stay values."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the HParams page. It sorts them by name and shows the first five: those are the parts that studies compare."""
    choices = config.get("choices", {})
    first = {name: choices[name] for name in ("dataset", "model", "strategy", "uncertainty") if name in choices}
    details = {f"with {name}": value for name, value in choices.items() if name not in first}
    for key, value in _flat({key: value for key, value in config.items() if key not in ("choices", "seed")}).items():
        if not key.rsplit(".", 1)[-1].startswith("_"):
            details[f"with {key}"] = value
    return {**first, "seed": config.get("seed"), **details}
