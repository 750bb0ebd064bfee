"""How well `strategy=anomaly` tells the defects of a pool from the rest, by images and by patches.

    python scripts/measure_anomaly.py dataset=magnetic_tile dataset.root=magnetic_tile dataset.size=224

Takes the overrides of a dataset. Prints for each level the AUROC of the scores against the pool's labels, which nothing else
reads, and the CPU seconds of a query that computes everything and of one that finds it in the cache.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from alframe.config.overrides import load
from alframe.learner import Learner, Resources, Sets
from alframe.query import query
from alframe.rng import generator
from alframe.strategy.anomaly import Anomaly
from alframe.types import Examples, Labelled
from alframe.uncertainty.point import Point


def main(overrides: list[str]) -> None:
    plan = load([*overrides, "progress=false"])
    data = plan.dataset.load(plan.cache)
    defects = torch.from_numpy(np.isin(data.pool.labels, data.required_defects("this table")))
    nothing = Examples(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    print(f"{len(data.pool)} images of shape {data.pool.shape}, {float(defects.float().mean()):.1%} defects")
    print("| level | AUROC | first query, CPU s | again, CPU s |\n|---|---|---|---|")
    for level in ("image", "patch"):
        with tempfile.TemporaryDirectory() as cache:
            seconds = []
            for _ in range(2):
                resources = Resources(plan.device, Path(cache))
                learner = Learner(Sets(data), plan.parts["model"], plan.parts["trainer"], Point(), resources=resources)
                rows, labelled, start = torch.arange(len(data.pool)), Labelled(nothing, nothing), time.process_time()
                picked = query(Anomaly(level=level), learner, rows, 1, generator(0, 0, "query"), labelled)
                seconds.append(time.process_time() - start)
        print(f"| {level} | {roc_auc_score(defects, picked.pool_scores):.3f} | {seconds[0]:.1f} | {seconds[1]:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
