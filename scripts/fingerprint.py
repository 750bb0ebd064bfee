"""Whether a change moves any number: hashes of the ledger and the rounds of six runs, held against those of an earlier commit.

    python scripts/fingerprint.py                  # run all six, compare with scripts/fingerprints.json; exit code 1 if one differs
    python scripts/fingerprint.py queue growing    # only these
    python scripts/fingerprint.py --write          # store what came out as the new reference

Seconds are left out; every other value counts, bit for bit. The hashes hold for one processor and one version of torch, which
stand in the file: elsewhere, check out the commit to compare with, run it there with `--write`, and come back. The runs are
those of the `alframe` command in a folder of their own, so the script knows nothing of the package but its command and its files.
CIFAR-10 must be in the cache (`python scripts/prepare_data.py cifar10`). One thread each; about five minutes in all.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

STORED = Path(__file__).with_name("fingerprints.json")
WAITS = 75
CLASSES = ("dark", "light")
FACTORY = (
    "annotator=queue", "dataset=image_folder", "dataset.size=16", "dataset.normalization=pool", "trainer.epochs=5", "trainer.min_steps=20",
    "strategy=margin", "budget.initial=10", "budget.query_size=6", "budget.rounds=3", "budget.validation=0.2",
)  # fmt: skip


def alframe(folder: Path, *overrides: str) -> bool:
    """One launch; whether it ended well (False: it waits for people)."""
    command = [
        sys.executable,
        "-m",
        "alframe",
        f"run.root={folder / 'runs'}",
        "threads=1",
        "device=cpu",
        "progress=false",
        *overrides,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode not in (0, WAITS):
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def default(folder: Path) -> None:
    """The factory scenario of drawn surfaces, as shipped."""
    alframe(folder)


def elpv_frozen(folder: Path) -> None:
    """A head on a frozen trunk, three strategies."""
    for strategy in ("margin", "badge", "typiclust"):
        alframe(
            folder,
            "dataset=elpv",
            "model=frozen",
            "model.pooling=mean",
            "trainer=sgd",
            "uncertainty=mc_dropout",
            f"strategy={strategy}",
            "budget.initial=50",
            "budget.rounds=2",
        )


def cifar10(folder: Path) -> None:
    """Ten classes, augmentation, BALD by MC-dropout."""
    small = ("trainer.max_steps=60", "trainer.min_steps=20", "budget.rounds=1", "uncertainty.draws=4")
    alframe(folder, "dataset=cifar10", "strategy=bald", *small)


def ensemble(folder: Path) -> None:
    """Three members, a temperature from validation images, warm start, and more rounds given to a finished run."""
    options = (
        "uncertainty=ensemble", "uncertainty.members=3", "uncertainty.temperature=true", "strategy=mean_kl", "budget.initial=60",
        "budget.validation=0.2", "trainer.warm_start=true", "trainer.max_steps=40", "trainer.min_steps=20",
    )  # fmt: skip
    alframe(folder, *options, "budget.rounds=1")
    alframe(folder, *options, "budget.rounds=2")


def queue(folder: Path) -> None:
    """Photos with known classes; a person who answers with the truth, and is unsure of every ninth."""
    for place, n in (("dark", 30), ("light", 30), ("test/dark", 8), ("test/light", 8)):
        draw(folder / "photos" / place, n, light="light" in place)
    answered(folder, lambda row: "unsure" if int(row["id"][:4], 16) % 9 == 0 else Path(row["image"]).parent.name)


def growing(folder: Path) -> None:
    """A few labelled photos, others without a label, and new ones before every launch."""
    for name in CLASSES:
        draw(folder / "photos" / name, 6, light=name == "light")

    def arrive() -> None:
        for name in CLASSES:
            draw(folder / "photos" / "unlabelled", 10, light=name == "light", prefix=f"{name}_")

    answered(folder, lambda row: Path(row["image"]).name.split("_")[0], arrive)


def answered(folder: Path, answer: Callable[[dict[str, str]], str], before: Callable[[], None] = lambda: None) -> None:
    """Launch and fill the newest sheet until the run is finished."""
    before()
    while not alframe(folder, f"dataset.root={folder / 'photos'}", f"cache={folder / 'cache'}", *FACTORY):
        sheet = max(folder.glob("runs/*/*/*/queue/round_*.csv"))
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            rows = [{**row, "answer": answer(row)} for row in csv.DictReader(file)]
        with sheet.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        before()


def draw(folder: Path, n: int, *, light: bool, prefix: str = "") -> None:
    """Noise on a dark or on a light ground; the file names count on."""
    folder.mkdir(parents=True, exist_ok=True)
    first = len(list(folder.glob("*.png")))
    for number in range(first, first + n):
        stream = np.random.default_rng([number, *folder.name.encode(), light])
        pixels = stream.integers(60 * light, 60 * light + 180, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{prefix}{number:03d}.png")


RUNS = {run.__name__: run for run in (default, elpv_frozen, cifar10, queue, growing, ensemble)}


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of the ledger and of the rounds of every run below `folder`, by strategy, without seconds."""
    found = {}
    for path in sorted(folder.glob("runs/*/*/*/*.jsonl")):
        if path.name not in ("ledger.jsonl", "rounds.jsonl"):
            continue
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        bare = [{key: value for key, value in sorted(line.items()) if not key.endswith("_s")} for line in lines]
        cell = path.parent.parent.name.split(",")[0]
        found[f"{cell}/{path.stem}"] = hashlib.sha256(json.dumps(bare).encode()).hexdigest()
    return found


def machine() -> dict[str, str]:
    """What the hashes hold for."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {"processor": cpu or platform.processor(), "torch": torch.__version__}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fingerprint.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"which of {', '.join(RUNS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="store the hashes as the reference")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.runs) - set(RUNS)):
        parser.error(f"expected {', '.join(RUNS)}, got {', '.join(unknown)}")
    os.environ.setdefault("ALFRAME_CACHE", str(Path.home() / ".cache" / "alframe"))
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {"runs": {}}
    found: dict[str, dict[str, str]] = {}
    for name in options.runs or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            RUNS[name](Path(folder))
            found[name] = fingerprint(Path(folder))
        same = found[name] == stored["runs"].get(name)
        print(f"{name}: {len(found[name])} files, {'identical' if same else 'DIFFERENT'}", flush=True)
    if options.write:
        text = json.dumps({**machine(), "runs": {**stored["runs"], **found}}, indent=1) + "\n"
        STORED.write_text(text, encoding="utf-8")
        return 0
    if stored.get("processor") != machine()["processor"] or stored.get("torch") != machine()["torch"]:
        print(f"The reference is of another machine: {stored.get('processor')}, torch {stored.get('torch')}.")
    return int(any(found[name] != stored["runs"].get(name) for name in found))


if __name__ == "__main__":
    sys.exit(main())
