"""The record of a run: its folder, locked by one process.

Order of writes in a round: metrics and questions (atomically) before anyone is asked; one ledger line per answer; last the
line in the rounds file, which commits the round. After a kill at any instant, re-running the same command resumes and
gives the same result.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from jaxtyping import Float, UInt8

from alframe.errors import RunFolderError, expect
from alframe.labels.ledger import Ledger
from alframe.part import Declared, added_in, with_added
from alframe.record.blend import blended, scale_of
from alframe.record.contact_sheet import MAX_IMAGES, write_contact_sheet
from alframe.record.files import read_jsonl, write_atomically
from alframe.record.layout import FORMAT, Layout
from alframe.record.planned import Line, Planned, Shown
from alframe.record.read import ROUND_KEYS, flat, read_config, read_planned, read_provenance
from alframe.types import SPENT

if TYPE_CHECKING:  # tensorboard takes a second to import
    from alframe.record.tensorboard import Board

PLANNED_KEYS = ("line", "evaluation", "pool_scores")
EVIDENCE_SIDE = 128  # pixels of the longer side of an image on the sheet of evidence
EVIDENCE = "evidence for the most likely defect, else class, in logits"
DISTANCES = "mean distance to the three nearest patches of other images"
PACKAGES = ("alframe", "torch", "torchvision", "numpy", "hydra-core", "scikit-learn")


class Record:
    """The folder of one run. `config` is everything that can change a result, as plain values; `declared` the parts' declarations."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        declared: Declared | None = None,
        *,
        overwrite: bool = False,
        tensorboard: bool = True,
        keep_checkpoint: bool = False,
        maps: bool = False,
    ) -> None:
        self.folder, self.config, self.keep_checkpoint, self.maps = folder, config, keep_checkpoint, maps
        self.layout, self._declared = Layout(folder), declared or Declared()
        self._lock = FileLock(self.layout.lock)
        try:
            self.layout.queries.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            expect(
                not (overwrite and self._declared.has_answers(folder)),
                f"Expected a run without answers from people, because run.overwrite=true deletes all of it, got {folder}, which has "
                "or may have some; use another run.name, or move the folder away.",
                RunFolderError,
            )
            self._discard(start=overwrite)
            self.began = read_config(folder) if self.layout.config.exists() else {}
            self._compare_config()
            self.reopened = False
            self.rounds: list[Line] = read_jsonl(self.layout.rounds, ROUND_KEYS)
            if self._more_rounds > 0:
                self._reopen_last_round()
            elif self._more_rounds < 0:
                self._close_at_last_round()
            if not self.began:
                self._store_config()
            self.ledger = Ledger(self.layout.ledger, self._declared.count_validation)
            self._rounds_file = self.layout.rounds.open("a", encoding="utf-8")
        except Timeout as error:
            raise RunFolderError(
                f"Expected {self.folder} to be unlocked, got a folder that another process is using; wait for it, or use another run.name."
            ) from error
        except OSError as error:
            self._lock.release()
            raise RunFolderError(f"Expected a writable run folder, got: {error}; choose another run.root.") from error
        except BaseException:
            self._lock.release()
            raise
        self.board: Board | None = None
        self._tensorboard = tensorboard

    @property
    def done(self) -> int:
        """Number of committed rounds."""
        return len(self.rounds)

    @property
    def stopped(self) -> str | None:
        """Why the run is finished, or None."""
        return self.rounds[-1].get("stopped") if self.rounds else None

    @property
    def finished(self) -> bool:
        """Whether the run has stopped and the ledger has all its answers (a torn last line may be missing)."""
        return self.stopped is not None and self.ledger.bought(self.rounds[-1]["round"]) == self.rounds[-1]["labels"]

    def check_consistency(self) -> None:
        """Raise `RunFolderError` unless ledger, rounds and stored queries agree."""
        numbers = [line["round"] for line in self.rounds]
        last = max((line["round"] for line in self.ledger.lines), default=0)
        known = self.done + 1 if self.planned(self.done) else self.done
        if numbers != list(range(self.done)):
            wrong = f"rounds {numbers} in {self.layout.rounds.name}"
        elif last > known:
            wrong = f"answers of round {last} in {self.layout.ledger.name} after {self.done} rounds"
        else:
            short = [line for line in self.rounds if self.ledger.bought(line["round"]) != line["labels"]]
            if not short:
                return
            bought = self.ledger.bought(short[0]["round"])
            wrong = f"{bought} answers, but round {short[0]['round']} had {short[0]['labels']} labels"
        raise RunFolderError(
            f"Expected ledger, rounds and queries of {self.folder} to agree, got {wrong}; "
            "restore the folder from a backup, or start over with run.overwrite=true."
        )

    def planned(self, round: int | None) -> Planned | None:
        """What was stored for a round, or None; `round` None: the initial purchase."""
        stored = read_planned(self.folder, round, () if round is None else PLANNED_KEYS)
        return None if stored is None else Planned.of(stored)

    def once(self, round: int | None, compute: Callable[[], Planned]) -> Planned:
        """What was stored for a round; else the result of `compute`, stored before it is returned and never recomputed.

        `round` None: the initial purchase.
        """
        planned = self.planned(round)
        if planned is None:
            planned = compute()
            self.store(round, planned)
        elif round is not None and self._rounds is not None and round >= self._rounds:
            planned.questions = []  # of a run that was to go on; answers that are there already stay in the ledger
            planned.line["stopped"] = planned.line.get("stopped") or SPENT
        return planned

    def store(self, round: int | None, planned: Planned) -> None:
        """Store the plan of a round, atomically."""
        write_atomically(self.layout.planned(round), planned.to_json())

    def drop_evidence(self, round: int) -> None:
        """Remove the sheet of the evidence of a round, if there is one."""
        self.layout.evidence_sheet(round).unlink(missing_ok=True)

    def show_evidence(
        self, round: int, images: UInt8[np.ndarray, "q ch h w"], maps: Float[np.ndarray, "q h2 w2"], of: str
    ) -> None:
        """Write the sheet of the evidence in the queried images, in rank order; `of` says what the maps are.

        Called before the round is stored, so that a stored round has its sheet, whoever answers whenever.
        """
        scale = scale_of(maps, distances=of == DISTANCES)
        text = f"{of} from {scale[0]:.3g} (grey) to {scale[1]:.3g} (bright)"
        tiles = blended(images[:MAX_IMAGES], maps[:MAX_IMAGES], scale, EVIDENCE_SIDE)
        write_contact_sheet(self.layout.evidence_sheet(round), tiles, EVIDENCE_SIDE, text)

    def at_start(self, data: Mapping[str, Any], device: torch.device) -> None:
        """Record the data and environment of this launch, and open TensorBoard at the first uncommitted round.

        Raises `RunFolderError` if the data differ from those of earlier launches; then nothing has been written.
        """
        path, past = self.layout.provenance, read_provenance(self.folder)
        if past and past["data_hash"] != data["data_hash"]:
            raise RunFolderError(
                f"Expected the data that this run started with (hash {past['data_hash'][:12]}), got other data ({data['data_hash'][:12]}); "
                "restore the old data, or use another run.name."
            )
        self._store_config()  # not before: what it says of the data's place is true now
        launches = [*past.get("launches", []), _launch(device)]
        absent = added_in(yaml.safe_load(_yaml(self.config)))
        write_atomically(path, json.dumps({**data, "options_if_absent": absent, "launches": launches}, indent=1))
        if self._tensorboard:
            self._open_board()

    def commit(self, planned: Planned, shown: Shown) -> None:
        """Commit the round. TensorBoard and the contact sheet are written before the round's line: after a kill, the next
        launch purges the events and rewrites the sheet. The last round adds the final numbers for the HParams page.
        """
        self.ledger.sync()
        line, questions = planned.line, planned.questions
        if shown.images is not None and len(shown.images):
            ranked = sorted(range(len(questions)), key=lambda i: (questions[i].rank, i))
            write_contact_sheet(self.layout.contact_sheet(planned.round), shown.images[ranked])
        if self.board:
            self.board.round(line, planned.evaluation)
            if questions:
                sheet = self.layout.evidence_sheet(planned.round) if self.maps else None
                asked = [vars(question) for question in questions]
                self.board.query(line["labels"], asked, planned.pool_scores, shown, sheet)
            if line.get("stopped"):
                from alframe.record.tensorboard import final_numbers

                self.board.finish(_hparams(self.config), final_numbers([*self.rounds, line]))
        self._rounds_file.write(json.dumps(line) + "\n")
        self._rounds_file.flush()
        os.fsync(self._rounds_file.fileno())
        self.rounds.append(line)
        # The second-to-last checkpoint stays, because extending a finished run repeats its last round.
        self.layout.checkpoint(planned.round - 2).unlink(missing_ok=True)

    def close(self) -> None:
        if self.board:
            self.board.close()
        self.ledger.close()
        self._rounds_file.close()
        self._lock.release()

    @property
    def _rounds(self) -> int | None:
        """budget.rounds, if the config has it."""
        rounds = (self.config.get("budget") or {}).get("rounds")
        return rounds if isinstance(rounds, int) else None

    @property
    def _more_rounds(self) -> int:
        """By how much budget.rounds has grown since the config was stored."""
        before = (self.began.get("budget") or {}).get("rounds")
        return self._rounds - before if self._rounds is not None and isinstance(before, int) else 0

    def _store_config(self) -> None:
        """Last of all, so that after a kill the next launch extends again."""
        text, path = _yaml({"format": FORMAT, **self.config}), self.layout.config
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def _compare_config(self) -> None:
        """Raise `RunFolderError` for options that differ from the stored config and may not."""
        if not self.began:
            return
        old, new = (
            {**self._declared.added, **flat(with_added(config))}
            for config in (self.began, yaml.safe_load(_yaml(self.config)))
        )
        differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if all(self._declared.may_become(key, old.get(key), new.get(key)) for key in differing):
            return
        changes = ", ".join(f"{key} ({old.get(key)} -> {new.get(key)})" for key in differing)
        raise RunFolderError(
            f"Expected the config that {self.folder} started with, got other values of {changes}; "
            "use another run.name, or start over with run.overwrite=true."
        )

    def _reopen_last_round(self) -> None:
        """Extend a finished run: its last round bought nothing, so it is undone, committed or not, and repeated."""
        last = self.done - 1 if self.stopped else self.done
        planned = self.planned(last)
        if planned is not None and planned.line.get("stopped"):
            self.layout.planned(last).unlink()
            self.reopened = True
        if self.stopped:
            self.reopened = True
            self.rounds.pop()
            self._rewrite_rounds()

    def _close_at_last_round(self) -> None:
        """Fewer rounds than there are already: the last one is the end. What was asked since can be gone on with later."""
        if self.rounds and not self.stopped and self._rounds is not None and self.done > self._rounds:
            self.rounds[-1]["stopped"] = SPENT
            self._rewrite_rounds()

    def _rewrite_rounds(self) -> None:
        write_atomically(self.layout.rounds, "".join(json.dumps(line) + "\n" for line in self.rounds))

    def _open_board(self) -> None:
        from alframe.record.tensorboard import Board

        is_old = self.layout.tensorboard.exists()
        # The steps from the first uncommitted round on are purged. A committed round can share that step (all its answers
        # were skipped), so the committed rounds at that step are written again; without an earlier board, all of them.
        step = self.ledger.bought(self.done)
        self.board = Board(self.layout.tensorboard, purge_step=step if is_old else None)
        if not is_old:
            self.board.config(_yaml(self.config))
        for line in self.rounds:
            if not is_old or line["labels"] == step:
                planned = self.planned(line["round"])
                self.board.round(line, planned.evaluation if planned else None)

    def _discard(self, *, start: bool) -> None:
        """Delete everything in the folder but the lock. A marker file makes it resumable after a kill."""
        marker = self.layout.discarding
        if start:
            marker.touch()
        if not marker.exists():
            return
        for path in self.folder.iterdir():
            if path in (self.layout.lock, marker):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.layout.queries.mkdir()
        marker.unlink()


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the HParams page. It sorts them by name and shows the first five: the parts that studies compare."""
    choices = config.get("choices", {})
    first = {name: choices[name] for name in ("dataset", "model", "strategy", "uncertainty") if name in choices}
    details = {f"with {name}": value for name, value in choices.items() if name not in first}
    for key, value in flat({key: value for key, value in config.items() if key not in ("choices", "seed")}).items():
        if not key.rsplit(".", 1)[-1].startswith("_"):
            details[f"with {key}"] = value
    return {**first, "seed": config.get("seed"), **details}


def _launch(device: torch.device) -> dict[str, Any]:
    """What is needed to repeat this _launch: time, versions, source state, device, threads, command."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions,
        "git": _git(Path(__file__).parent.parent),
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "platform": platform.platform(),
    }


def _git(source: Path) -> dict[str, Any] | None:
    """Commit, diff and untracked files of the checkout that alframe runs from; None if it was installed from a wheel."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, check=True, timeout=20)
        return run.stdout.decode("utf-8", errors="replace")  # a diff may contain files of any encoding

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != source.parent:
            return None  # installed inside another project's checkout
        untracked = git("ls-files", "--others", "--exclude-standard").splitlines()
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "diff": git("diff", "HEAD")[:1_000_000],
            "untracked": untracked,
        }
    except (OSError, subprocess.SubprocessError):
        return None
