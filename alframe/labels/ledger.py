"""The ledger: one line per answer, written before the answer is used, never rewritten."""

import json
import os
import time
from pathlib import Path
from typing import Any

from alframe.labels.consensus import CHECKS, UNANSWERED
from alframe.record.files import read_jsonl
from alframe.record.read import LEDGER_KEYS

SYNC_S = 0.2  # a person's answers are synced one by one; the thousands of an oracle share a sync


class Answers:
    """Answers in order of arrival. `count_validation`: whether validation images count as bought."""

    def __init__(self, lines: list[dict[str, Any]], count_validation: bool = True) -> None:
        self.lines, self.count_validation, self.where = lines, count_validation, "the ledger"

    def append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def bought(self, round: int | None = None) -> int:
        """Number of labels bought in total, or up to and including those that `round` was trained on.

        An image costs one label per round, however many people were asked. Checks (gold, repeat) and questions that nobody
        answered before the round closed cost nothing.
        """
        free = CHECKS if self.count_validation else (*CHECKS, "validation")
        bought = (line for line in self.lines if line["kind"] not in free and line.get("answer") != UNANSWERED)
        return len({(line["round"], line["index"]) for line in bought if round is None or line["round"] <= round})


class Ledger(Answers):
    """The answers in the file at `path`, open for appending.

    A torn last line (the process died while writing it) was never acknowledged: it is removed, and the loop asks again.
    """

    def __init__(self, path: Path, count_validation: bool = True) -> None:
        super().__init__(read_jsonl(path, LEDGER_KEYS), count_validation)
        self.where = str(path)
        self._file = path.open("a", encoding="utf-8")
        self._synced = 0.0

    def append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()
        super().append(line)

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        self._file.close()
