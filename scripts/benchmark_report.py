"""Seconds and memory of `alframe report` over many run folders: 200 of them should take under 30 s and 1 GB on one core.

    python scripts/benchmark_report.py [--runs 200] [--folder FOLDER]

The folders are made up: four comparisons of ten strategies with an equal number of seeds, ten rounds of 100 questions each with
their stage files, ledgers and contact sheets. The report is written by another process, whose time and peak memory are printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from alframe.record.contact_sheet import write_contact_sheet

DATASETS = {
    "defects": ("good", "defective"),
    "tiles": tuple("abcdef"),
    "digits": tuple("0123456789"),
    "screws": ("good", "bad"),
}
STRATEGIES = ("random", "margin", "entropy", "bald", "batch_bald", "badge", "core_set", "typiclust", "uherding", "epig")
ROUNDS, ASKED, POOL = 10, 100, 10_000
CHILD = """
import sys, time
from alframe.report.cli import main
code = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("measured", code, time.process_time(), int(peak.split()[1]) / 1024)
"""


def make_run(folder: Path, dataset: str, strategy: str, seed: int, rng: np.random.Generator, sheet: bytes) -> None:
    """A run folder as `alframe` leaves it."""
    classes = DATASETS[dataset]
    (folder / "queries").mkdir(parents=True)
    groups = {
        "model": "frozen",
        "trainer": "sgd",
        "uncertainty": "mc_dropout",
        "annotator": "oracle",
        "budget": "default",
    }
    choices = {"dataset": dataset, "strategy": strategy, **groups}
    config = {group: {"_target_": f"alframe.{group}.{leaf}.Leaf"} for group, leaf in choices.items()}
    config["trainer"] |= {f"option_{k}": k / 7 for k in range(30)}
    (folder / "config.yaml").write_text(yaml.safe_dump({"choices": choices, **config, "seed": seed}))
    provenance = {"dataset": dataset, "classes": list(classes), "n_pool": POOL, "data_hash": dataset}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    ledger, rounds = [], []
    order = rng.permutation(POOL)[: (ROUNDS + 1) * ASKED].tolist()
    for round in range(ROUNDS + 1):
        asked = [
            {
                "id": f"{index:016x}-0",
                "index": index,
                "kind": "query" if round else "initial",
                "round": round,
                "rank": rank,
            }
            for rank, index in enumerate(order[round * ASKED : (round + 1) * ASKED])
        ]
        ledger += [
            {**a, "label": int(rng.integers(len(classes))), "annotator": "oracle", "score": 0.5, "time_s": 0.0}
            for a in asked
        ]
        last = round == ROUNDS
        line = _line(round, rng) | {"stopped": "budget spent" if last else None}
        rounds.append(line)
        probs = rng.dirichlet(np.ones(len(classes)), ASKED).round(6).tolist()
        questions = (
            []
            if last
            else [
                {**a, "score": 0.5, "score_name": "margin", "probs": p, "reason": "a 0.50"}
                for a, p in zip(asked, probs, strict=True)
            ]
        )
        stage = {"line": line, "evaluation": _evaluation(classes, rng), "questions": questions, "pool_scores": None}
        (folder / "queries" / f"round_{round:03d}.json").write_text(json.dumps(stage))
        if questions:
            (folder / "queries" / f"round_{round:03d}.jpg").write_bytes(sheet)
    for name, lines in (("ledger", ledger), ("rounds", rounds)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _line(round: int, rng: np.random.Generator) -> dict[str, float]:
    height = float(0.5 + 0.04 * round + rng.normal(0, 0.01))
    metrics = {
        f"test/{name}": height
        for name in ("accuracy", "auroc", "auprc", "balanced_accuracy", *(f"recall/{c}" for c in range(10)))
    }
    seconds = {f"{stage}_s": float(rng.random()) for stage in ("fit", "evaluate", "pool", "select", "annotate")}
    return {
        "round": round,
        "labels": (round + 1) * ASKED,
        **metrics,
        "test/nll": 1 - height,
        "test/ece": 0.1,
        **seconds,
    }


def _evaluation(classes: tuple[str, ...], rng: np.random.Generator) -> dict[str, object]:
    share = np.linspace(0.03, 0.97, 15).tolist()
    reliability = {"confidence": share, "accuracy": rng.random(15).tolist(), "count": rng.integers(5, 500, 15).tolist()}
    return {"confusion": np.eye(len(classes), dtype=int).tolist(), "reliability": reliability, "classes": list(classes)}


def make_study(folder: Path, n_runs: int) -> None:
    rng = np.random.default_rng(0)
    write_contact_sheet(folder / "sheet.jpg", rng.integers(256, size=(64, 3, 64, 64), dtype=np.uint8))
    sheet = (folder / "sheet.jpg").read_bytes()
    for k in range(n_runs):
        dataset = list(DATASETS)[k % len(DATASETS)]
        strategy, seed = STRATEGIES[k // len(DATASETS) % len(STRATEGIES)], k // (len(DATASETS) * len(STRATEGIES))
        make_run(folder / "runs" / f"{dataset}-{strategy}" / f"seed={seed}", dataset, strategy, seed, rng, sheet)


def measure(folder: Path, out: Path) -> tuple[float, float]:
    """CPU seconds and peak MiB of the command, in a process of its own with one thread."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    _, code, seconds, peak = done.stdout.splitlines()[-1].split()
    if code != "0":
        raise SystemExit(done.stderr)
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where to make and keep the folders (default: a temporary place)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "runs").exists():
            make_study(place, arguments.runs)
        seconds, peak = measure(place / "runs", place / "out")
        size = (place / "out" / "report.html").stat().st_size / 1e6
        print(
            f"{arguments.runs} run folders: {seconds:.1f} CPU seconds, {peak:,.0f} MiB at most, report.html {size:.1f} MB"
        )


if __name__ == "__main__":
    main()
