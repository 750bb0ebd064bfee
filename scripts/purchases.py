"""What the strategies of a shifted study bought: images of no class, copies of what they had, rare classes.

    python scripts/purchases.py runs/out_of_distribution

Of what was queried (initial and validation images apart), in shares of the images bought, mean ± standard deviation over seeds:
no class: without an answer; copies: of an image that had been bought before, in this or an earlier query or in the initial set (pools
of shift=duplicates); rare half: of the classes in the second half of their order (pools of shift=imbalance have the rare ones there).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from alframe.errors import AlframeError
from alframe.report.read.comparison import compare, read_runs
from alframe.report.read.run import Run

COLUMNS = ("no class", "copies", "rare half")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="purchases.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="run folders, or folders above them")
    try:
        runs, _ = read_runs(parser.parse_args(argv).folders)
        for comparison in compare(runs)[0]:
            print(f"\n{comparison.title}\n\n| strategy | {' | '.join(COLUMNS)} |\n|---|---|---|---|")
            for name, by_seed in comparison.cells.items():
                shares = [bought(run) for run in by_seed.values()]
                print(f"| {name} | {' | '.join(_shown([share[column] for share in shares]) for column in COLUMNS)} |")
    except (AlframeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def bought(run: Run) -> dict[str, float]:
    """The shares of one run, in [0, 1]."""
    text = (run.folder / "ledger.jsonl").read_text(encoding="utf-8")
    ledger = [json.loads(line) for line in text.splitlines()]
    ledger.sort(key=lambda line: (line["round"], line["rank"]))
    queried = [line for line in ledger if line["kind"] == "query"]
    if not queried:
        return dict.fromkeys(COLUMNS, 0.0)
    half = len(run.classes) / 2
    return {
        "no class": fmean(line["label"] is None for line in queried),
        "copies": fmean(copies(ledger, n_originals(run))),
        "rare half": fmean(line["label"] is not None and line["label"] >= half for line in queried),
    }


def n_originals(run: Run) -> int:
    """Images of the pool before it was copied."""
    n_pool = json.loads((run.folder / "provenance.json").read_text(encoding="utf-8"))["n_pool"]
    return n_pool // (run.config.get("shift") or {}).get("copies", 1)


def copies(ledger: Sequence[dict[str, Any]], n: int) -> list[bool]:
    """For each queried image whether another copy of it was bought before it. Image i is a copy of i modulo `n`."""
    had: set[int] = set()
    repeated = []
    for line in ledger:
        original = line["index"] % n
        if line["kind"] == "query":
            repeated.append(original in had)
        had.add(original)
    return repeated


def _shown(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
