"""The linear head on frozen features against others: what it predicts, and what it finds, with 20 to 200 labels.

    python scripts/benchmark_heads.py elpv31 elpv5 elpv2 drawn2 --seeds 10
    python scripts/benchmark_heads.py tile5 screw5 tile6 --data FOLDER      # with FOLDER/magnetic_tile and FOLDER/mvtec_ad_256/screw
    python scripts/benchmark_heads.py cifar10 --seeds 5                     # 8,000 images of the pool, 4,000 of the test set

Every head buys its own labels: at random, or by its smallest margin in tens after a start of 20 (rare pools: ten random, ten
unusual ones, as `alframe` starts). Seeds split, subsample and draw. Test defects of a thinned pool are weighted to its share. Heads: `bayes_linear` (the default of model=frozen), `sgd` (its
head before: dropout, 20 masks), and scikit-learn's LogisticRegression at C = 1, 0.1, 0.01. Prints Markdown: means per cell; the mean over
cells; and how many cells are worse than the best competitor by more than 0.01 (paired 95 % t intervals, Holm over the cells).
"""

import argparse
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from alframe.dataset.cache import default_cache
from alframe.dataset.decode import decode_files
from alframe.engine.neighbours import distinct_neighbour_distances
from alframe.images import Data, ImageSet
from alframe.learner import POOL, TEST, Learner, Sets
from alframe.model.frozen import FeatureHead, Frozen
from alframe.trainer.bayes_linear import BayesLinear
from alframe.trainer.trainer import Trainer
from alframe.types import Examples
from alframe.uncertainty.laplace import Laplace
from alframe.uncertainty.mc_dropout import MCDropout

COUNTS = (20, 50, 100, 200)
SHARES = {
    "elpv5": 0.05,
    "elpv2": 0.02,
    "tile5": 0.05,
    "screw5": 0.05,
    "drawn2": None,
    "elpv31": None,
    "tile6": None,
    "cifar10": None,
}
Head = Callable[[Data, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`head(data, labelled, drawn)` -> probabilities of the pool and of the test images."""


def by_learner(trainer: object, uncertainty: object) -> Head:
    def head(data: Data, labelled: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        learner = Learner(Sets(data), lambda shape, c: FeatureHead(shape, c), trainer, uncertainty)  # type: ignore[arg-type]
        rows = torch.from_numpy(labelled)
        examples = Examples(rows, torch.from_numpy(data.pool.labels)[rows], drawn=torch.from_numpy(drawn))
        learner.fit(examples, Examples(rows[:0], rows[:0]), 0)
        every = torch.arange(len(data.pool))
        query = torch.cat([p.mean_log_probs for p in learner.predictions(POOL, every)]).exp()
        return query.numpy(), learner.mean_log_probs(TEST, torch.arange(len(data.test))).exp().numpy()

    return head


def by_regression(c: float) -> Head:
    def head(data: Data, labelled: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, deviation = data.pool.pixels.mean(0), data.pool.pixels.std(0)
        pool, test = (
            (x - mean) / np.where(deviation > 1e-6, deviation, 1) for x in (data.pool.pixels, data.test.pixels)
        )
        model = LogisticRegression(C=c, max_iter=2000).fit(pool[labelled], data.pool.labels[labelled])
        found = []
        for images in (pool, test):
            probs = np.full((len(images), data.pool.n_classes), 1e-9)
            probs[:, model.classes_] = model.predict_proba(images)
            found.append(probs / probs.sum(1, keepdims=True))
        return found[0], found[1]

    return head


HEADS: dict[str, Head] = {
    "bayes_linear": by_learner(BayesLinear(), Laplace()),
    "sgd": by_learner(Trainer(lr=0.001), MCDropout()),
    "C = 1": by_regression(1.0),
    "C = 0.1": by_regression(0.1),
    "C = 0.01": by_regression(0.01),
}


def features(name: str, folder: Path | None) -> ImageSet:
    """Features of all images of a pool's source, and their labels."""
    store, known = default_cache(), ("good", "defect")
    if name.startswith("elpv"):
        from alframe.dataset.elpv import Elpv

        data = Elpv(size=160).load(store)
        images = ImageSet(
            np.concatenate([data.pool.pixels, data.test.pixels]),
            np.concatenate([data.pool.labels, data.test.labels]),
            known,
        )
    elif name == "drawn2":
        from alframe.dataset.defects import Defects

        images = Defects(pool_size=6000, test_size=10, defect_rate=0.02).load(store).pool
    elif name == "cifar10":
        from alframe.config.overrides import load

        data = load(["dataset=cifar10"]).parts["dataset"].load(store)
        rng = np.random.default_rng(0)
        some, test = np.sort(rng.permutation(len(data.pool))[:8000]), np.sort(rng.permutation(len(data.test))[:4000])
        images = data.pool.take(some)
        images = ImageSet(
            np.concatenate([images.pixels, data.test.pixels[test]]),
            np.concatenate([images.labels, data.test.labels[test]]),
            images.classes,
        )
    else:
        if folder is None:
            sys.exit(f"Expected --data FOLDER for {name}, got none; see the head of this script.")
        if name.startswith("tile"):
            classes = sorted(path.name for path in (folder / "magnetic_tile").iterdir() if path.is_dir())
            files = [(file, c) for c in classes for file in sorted((folder / "magnetic_tile" / c).rglob("*.jpg"))]
            normal = next(c for c in classes if c.endswith("Free"))
        else:
            files = [(file, file.parent.name) for file in sorted((folder / "mvtec_ad_256/screw").glob("t*/*/*.png"))]
            classes, normal = sorted({c for _, c in files}), "good"
        pixels = decode_files([file for file, _ in files], size=160, channels=1).pixels
        if name == "screw5":  # good photos of test are darker than those of train
            grey = pixels.astype(np.float32)
            spread = grey.std(axis=(1, 2, 3), keepdims=True).clip(1)
            pixels = (
                ((grey - grey.mean(axis=(1, 2, 3), keepdims=True)) / spread * 48 + 127).clip(0, 255).astype(np.uint8)
            )
        labels = np.array([classes.index(c) if name == "tile6" else int(c != normal) for _, c in files])
        images = ImageSet(pixels, labels, tuple(classes) if name == "tile6" else known)
    return Frozen().prepare(images, store, torch.device("cpu"))


def split(name: str, images: ImageSet, seed: int) -> tuple[Data, np.ndarray]:
    """Pool and test set (30 %, by class), the pool's defects thinned to its share; and the weights of the test images."""
    rng, share = np.random.default_rng(1000 + seed), SHARES[name]
    if name == "cifar10":
        order = rng.permutation(8000)
        pool, test = images.take(np.sort(order)), images.take(np.arange(8000, len(images)))
        return Data(name, pool, test), np.ones(len(test))
    of_class = [rng.permutation(np.flatnonzero(images.labels == c)) for c in range(images.n_classes)]
    pools, tests = (
        [rows[: int(0.7 * len(rows))] for rows in of_class],
        [rows[int(0.7 * len(rows)) :] for rows in of_class],
    )
    if share is not None:
        pools[1] = pools[1][: round(share / (1 - share) * len(pools[0]))]
    pool, test = (images.take(np.sort(np.concatenate(rows))) for rows in (pools, tests))
    weights = np.ones(len(test))
    if share is not None:
        weights[test.labels == 1] = share / (1 - share) * len(tests[0]) / len(tests[1])
    return Data(name, pool, test), weights


def start(data: Data, order: np.ndarray, unusual: bool) -> tuple[list[int], list[bool]]:
    """The first labels, and whether each was drawn at random; random ones go on until there are two classes."""
    chosen, drawn = list(order[:20]), [True] * 20
    if unusual:
        points = torch.from_numpy((data.pool.pixels - data.pool.pixels.mean(0)) / data.pool.pixels.std(0).clip(1e-6))
        score = (
            distinct_neighbour_distances(torch.nn.functional.normalize(points), len(points), 5, 1 << 28).mean(1).numpy()
        )
        chosen = list(order[:10])
        chosen += [i for i in np.argsort(-score) if i not in set(chosen)][:10]
        drawn = [True] * 10 + [False] * 10
    rest = (i for i in order if i not in set(chosen))
    while len(np.unique(data.pool.labels[chosen])) < 2:
        chosen, drawn = [*chosen, next(rest)], [*drawn, True]
    return chosen, drawn


def trajectory(
    name: str, head: Head, how: str, data: Data, weights: np.ndarray, seed: int
) -> dict[int, dict[str, float]]:
    """The metrics at each number of labels."""
    order = np.random.default_rng(seed).permutation(len(data.pool))
    chosen, drawn = start(data, order, how == "margin" and data.pool.n_classes == 2 and name != "elpv31")
    found: dict[int, dict[str, float]] = {}
    for count in COUNTS:
        while len(chosen) < count:
            if how == "random":
                new = [i for i in order if i not in set(chosen)][: count - len(chosen)]
            else:
                probs = np.sort(head(data, np.array(chosen), np.array(drawn))[0], axis=1)
                margin = probs[:, -1] - probs[:, -2]
                margin[chosen] = np.inf
                new = list(np.argsort(margin, kind="stable")[: min(10, count - len(chosen))])
            chosen, drawn = [*chosen, *new], [*drawn, *[how == "random"] * len(new)]
        probs = head(data, np.array(chosen), np.array(drawn))[1].astype(np.float64)
        labels = data.test.labels
        values = {"NLL": log_loss(labels, probs, sample_weight=weights, labels=range(data.pool.n_classes))}
        if data.pool.n_classes == 2:
            values["AUROC"] = roc_auc_score(labels, probs[:, 1], sample_weight=weights)
            values["AUPRC"] = average_precision_score(labels, probs[:, 1], sample_weight=weights)
            values["found"] = float(data.pool.labels[chosen].sum())
        else:
            values["accuracy"] = float((probs.argmax(1) == labels).mean())
        found[count] = values
    return found


def holm(p_values: list[float]) -> list[float]:
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(np.array(p_values)[order] * np.arange(len(p_values), 0, -1)).clip(max=1)
    return list(adjusted[np.argsort(order)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmark_heads.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pools", nargs="+", choices=SHARES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--keep", type=Path, help="a folder: what is measured is stored there, and what it has is not measured again"
    )
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    arguments = parser.parse_args()
    heads = arguments.heads
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells: dict[tuple[str, str, str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in arguments.pools:
        images = cache(lambda name=name: features(name, arguments.data))
        for seed in range(arguments.seeds):
            for how in ("random", "margin"):
                for title in heads:
                    kept = arguments.keep and arguments.keep / f"{name}-{seed}-{how}-{title}.json"
                    if kept and kept.is_file():
                        found = json.loads(kept.read_text())
                    else:
                        found = trajectory(name, HEADS[title], how, *split(name, images(), seed), seed)
                    if kept:
                        kept.parent.mkdir(parents=True, exist_ok=True)
                        kept.write_text(json.dumps(found))
                    for count, values in found.items():
                        for metric, value in values.items():
                            cells[metric, name, how, int(count)][title].append(value)
            print(f"{name}: seed {seed}", file=sys.stderr, flush=True)
    for metric in ("AUROC", "AUPRC", "accuracy", "NLL", "found"):
        mine = {key: values for key, values in cells.items() if key[0] == metric}
        if not mine:
            continue
        digits, sign = (1 if metric == "found" else 3), (-1 if metric == "NLL" else 1)
        print(f"\n| {metric} | labels | " + " | ".join(heads) + " |\n|---|---|" + "---|" * len(heads))
        for (_, name, how, count), values in mine.items():
            print(
                f"| {name}, {how} | {count} | " + " | ".join(f"{np.mean(values[h]):.{digits}f}" for h in heads) + " |"
            )
        means = {h: float(np.mean([np.mean(values[h]) for values in mine.values()])) for h in heads}
        print("| mean | | " + " | ".join(f"{means[h]:.{digits}f}" for h in heads) + " |")
        if "bayes_linear" not in heads or len(heads) == 1:
            continue
        best = max((h for h in heads if h != "bayes_linear"), key=lambda h: sign * means[h])
        gaps = [sign * (np.array(values["bayes_linear"]) - np.array(values[best])) + 0.01 for values in mine.values()]
        worse = holm(
            [float(stats.ttest_1samp(gap, 0, alternative="less").pvalue) if gap.std() else 1.0 for gap in gaps]
        )
        print(
            f"\nBest competitor in the mean: {best}. Cells worse than it by more than 0.01 (Holm, 2.5 % one-sided): {sum(p < 0.025 for p in worse)} of {len(worse)}."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
