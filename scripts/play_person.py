"""A person who labels in a spreadsheet, played from the true labels: fills what is open in the files of a run with annotator=queue.

    python scripts/play_person.py RUN [--wrong 0.05] [--typo 0.05] [--unsure 0.05] [--skip 0.02] [--bad-image 0.02] [--seed 0]
        [--separator ";"] [--line-ends windows] [--encoding cp1252] [--libreoffice csv|xlsx|ods]

A row that is empty gets the true class, or by the shares given: another class (wrong), a word that the run refuses (typo), or one of
the answers without a class. A row that holds such a word gets its true class. The file is saved as a spreadsheet might: with other
separators, line ends and encodings, or by LibreOffice itself, which opens it and saves it again (through a workbook: xlsx, ods).
"""

import argparse
import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alframe.annotator.sheet import SEPARATORS
from alframe.annotator.words import parse_answer
from alframe.config.stored import stored_plan
from alframe.errors import AlframeError, DataError, RunFolderError
from alframe.record.read import read_config

NO_CLASS = ("unsure", "skip", "bad image")
NEWLINES = {"unix": "\n", "windows": "\r\n"}
CSV_FILTER = "Text - txt - csv (StarCalc)"
UTF_8 = 76  # LibreOffice's number of it
Cells = dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """How a file is saved. `libreoffice`: "" (by this script) or what LibreOffice saves it as before it saves it as CSV."""

    separator: str = ","
    newline: str = "\n"
    encoding: str = "utf-8-sig"
    libreoffice: str = ""


class Person:
    """`truth`: the class of each image by its id. `shares` in [0, 1] of the empty rows: wrong, typo, unsure, skip, bad image."""

    def __init__(
        self, classes: Sequence[str], truth: Mapping[str, str], shares: Mapping[str, float], seed: int
    ) -> None:
        self.classes, self.truth, self.shares, self.chance = classes, truth, shares, random.Random(seed)

    def answer(self, id: str, written: str) -> tuple[str, str]:
        """What goes into a row's cell, and what kind of answer that is; a good answer that is there stays."""
        if written:
            try:
                parse_answer(written, self.classes)
                return written, "kept"
            except DataError:
                return self.truth[id], "corrected"
        kind = self._kind()
        others = [name for name in self.classes if name != self.truth[id]]
        words = {"right": self.truth[id], "wrong": self.chance.choice(others), "typo": f"{self.truth[id]} ?!"}
        return words.get(kind, kind), kind

    def _kind(self) -> str:
        drawn = self.chance.random()
        for kind, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return kind
        return "right"


def play(run: Path, shares: Mapping[str, float], seed: int, saved: Saved) -> list[str]:
    """Fill the files of the newest round; a line about each. Raises `RunFolderError` where there is none."""
    files = sorted(path for path in (run / "queue").glob("round_*") if path.suffix in (".csv", ".jsonl"))
    if not files:
        raise RunFolderError(f"Expected {run / 'queue'} with files to fill, got none; run with annotator=queue first.")
    person = _person(run, shares, seed)
    return [fill(path, person, saved) for path in files if path.name[:9] == files[-1].name[:9]]


def _person(run: Path, shares: Mapping[str, float], seed: int) -> Person:
    plan = stored_plan(run, **{"progress": False, "device": "auto", "query.target": "pool"})
    pool = plan.dataset.load(plan.cache).pool
    new_classes = read_config(run)["annotator"].get("new_classes", [])
    truth = {id: pool.classes[label] for id, label in zip(pool.ids, pool.labels, strict=True) if label >= 0}
    return Person((*pool.classes, *new_classes), truth, shares, seed)


def fill(path: Path, person: Person, saved: Saved) -> str:
    """Answer every row of a file and save it; gives a line that says what was answered."""
    rows = _read(path)
    told: Counter[str] = Counter()
    for row in rows:
        row["answer"], kind = person.answer(row["id"], row["answer"])
        told[kind] += 1
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copy = Path(folder) / path.name
        _write(copy, rows, saved)
        if saved.libreoffice and path.suffix == ".csv":
            copy = by_libreoffice(copy, saved, Path(folder))
        os.replace(copy, path)
    return f"{path.name}: {', '.join(f'{n} {kind}' for kind, n in told.most_common())}"


def by_libreoffice(path: Path, saved: Saved, folder: Path) -> Path:
    """The file that LibreOffice makes of `path` when it opens it, saves it, and saves it as CSV (UTF-8) in the end."""
    if shutil.which("soffice") is None:
        raise RunFolderError(
            "Expected LibreOffice (soffice) to be installed, got none; apt-get install libreoffice-calc."
        )
    tokens = f"{ord(saved.separator)},34,{UTF_8},1"
    steps = (
        [f"csv:{CSV_FILTER}:{tokens}"]
        if saved.libreoffice == "csv"
        else [saved.libreoffice, f"csv:{CSV_FILTER}:{tokens}"]
    )
    for number, step in enumerate(steps):
        out = folder / str(number)
        command = ["soffice", f"-env:UserInstallation=file://{folder}/profile", "--headless", "--convert-to", step]
        command += [f"--infilter=CSV:{tokens}"] * (path.suffix == ".csv") + ["--outdir", str(out), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        made = out / f"{path.stem}.{step.split(':', 1)[0]}"
        if not made.is_file():
            raise DataError(f"Expected LibreOffice to save {path}, got: {done.stdout}{done.stderr}")
        path = made
    return path


def _read(path: Path) -> list[Cells]:
    """All cells of a file that the run or this script wrote."""
    raw = path.read_bytes()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in raw.decode().split("\n") if line]
    encodings = ["utf-16"] if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    separator = max(SEPARATORS, key=text.split("\n", 1)[0].count)
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))


def _write(path: Path, rows: Sequence[Cells], saved: Saved) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=saved.separator, lineterminator=saved.newline)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(saved.encoding))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="play_person.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder (the one with ledger.jsonl)")
    kinds = ("wrong", "typo", *NO_CLASS)
    for kind in kinds:
        parser.add_argument(
            f"--{kind.replace(' ', '-')}", type=float, default=0.0, metavar="SHARE", help="of the rows, in [0, 1]"
        )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--separator", choices=SEPARATORS, default=",")
    parser.add_argument("--line-ends", choices=NEWLINES, default="unix")
    parser.add_argument("--encoding", default="utf-8-sig")
    parser.add_argument("--libreoffice", choices=("csv", "xlsx", "ods"), default="")
    options = parser.parse_args(argv)
    saved = Saved(options.separator, NEWLINES[options.line_ends], options.encoding, options.libreoffice)
    try:
        shares = {kind: getattr(options, kind.replace(" ", "_")) for kind in kinds}
        for line in play(options.run, shares, options.seed, saved):
            print(line)
    except (AlframeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
