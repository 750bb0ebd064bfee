"""How good is the uncertainty? Every posterior on the same labels: likelihood, calibration, and what its scores tell apart.

    python scripts/benchmark_posteriors.py                      # CIFAR-10 and solar cells, three seeds
    python scripts/benchmark_posteriors.py --case elpv --seeds 0 1     # one of them

A network is trained on the labelled images of a case, a fifth more are kept for the temperature; measured are the test set and two
sets that are none of the classes (drawn surfaces and garments, brought to the shape of the case's images). NLL in nats and ECE, as
they are and with a temperature; AUROC of the predictive entropy for errors on the test set, and of entropy and BALD for
foreign images against the test set. Mean and standard deviation over the seeds. Needs the caches of `scripts/prepare_data.py`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
import torch.nn.functional as F
from measure import hardware
from sklearn.metrics import roc_auc_score
from torch import Tensor

from alframe.config.overrides import load
from alframe.images import Data, ImageSet
from alframe.learner import POOL, TARGET, TEST, Learner, Sets
from alframe.metrics import evaluate
from alframe.scores import bald, entropy
from alframe.types import Examples
from alframe.uncertainty.tempered import Tempered

POSTERIORS = ("point", "mc_dropout", "ensemble", "laplace", "snapshot", "tta")
FOREIGN = ("defects", "fashion_mnist")
N_FOREIGN = 1000
COLUMNS = (
    "accuracy",
    "NLL",
    "ECE",
    "NLL with T",
    "ECE with T",
    "T",
    "errors by entropy",
    "foreign by entropy",
    "foreign by BALD",
)


@dataclass(frozen=True)
class Case:
    """Overrides that choose data and model, and how many labels there are (a fifth as many are kept for validation)."""

    overrides: tuple[str, ...]
    labels: int


CASES = {
    "cifar10": Case(("dataset=cifar10", "dataset.pool_size=10000", "dataset.test_size=2000"), 1000),
    "elpv": Case(("dataset=elpv",), 500),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="only this one (may be given again)")
    parser.add_argument("--posterior", choices=POSTERIORS, action="append", help="only this one (may be given again)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="auto", help="as alframe's option")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    foreign = [load_data(f"dataset={name}").test for name in FOREIGN]
    for name in arguments.case or CASES:
        case = CASES[name]
        data = load_data(*case.overrides)
        outside = in_shape_of(data.test, foreign)
        print(f"\n{name}: {case.labels} labels, seeds {arguments.seeds}; {hardware()}\n")
        print(f"| posterior | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
        for posterior in arguments.posterior or POSTERIORS:
            overrides = (*case.overrides, f"uncertainty={posterior}", f"device={arguments.device}", "progress=false")
            rows = [measure(case, data, outside, overrides, seed) for seed in arguments.seeds]
            cells = [spelled(column) for column in zip(*rows, strict=True)]
            print(f"| {posterior} | {' | '.join(cells)} |", flush=True)


def load_data(*overrides: str) -> Data:
    plan = load(overrides)
    return plan.dataset.load(plan.cache)


def in_shape_of(images: ImageSet, foreign: Sequence[ImageSet]) -> ImageSet:
    """The first images of each foreign set, grey or in colour and as large as `images`, which they have nothing to do with."""
    channels, *size = images.shape
    parts = []
    for other in foreign:
        x = torch.from_numpy(np.array(other.pixels[:N_FOREIGN])).float()
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        x = x.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1) if x.shape[1] != channels else x
        parts.append(x.round().to(torch.uint8).numpy())
    pixels = np.concatenate(parts)
    return ImageSet(pixels, np.full(len(pixels), -1), images.classes)


def measure(case: Case, data: Data, outside: ImageSet, overrides: Sequence[str], seed: int) -> list[float]:
    """One fit, and all that is measured on it, in the order of `COLUMNS`."""
    e = load([*overrides, f"seed={seed}"]).experiment(data)
    learner = Learner(Sets(data, outside), e.model, e.trainer, e.uncertainty, seed=seed, resources=e.resources)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data.pool))[: case.labels * 6 // 5])
    labels = torch.from_numpy(data.pool.labels)
    training, validation = (Examples(rows, labels[rows]) for rows in order.split(case.labels))
    learner.fit(training, validation, round=0)

    truth = torch.from_numpy(data.test.labels)
    test, others = log_probs_of(learner, TEST, len(data.test)), log_probs_of(learner, TARGET, len(outside))
    held_out = zip(
        learner.batches(POOL, validation.rows), validation.labels.split(learner.resources.batch_size), strict=True
    )
    temperature = Tempered.fit(learner.fitted, ((x, view, y) for (x, view), y in held_out)).temperature
    as_is, cooled = (
        evaluate(mean_of((test / t).log_softmax(dim=-1)), truth, data.test.classes).metrics for t in (1.0, temperature)
    )
    is_foreign = torch.arange(len(test) + len(others)) >= len(test)
    return [
        as_is["accuracy"],
        *(metrics[key] for metrics in (as_is, cooled) for key in ("nll", "ece")),
        temperature,
        roc_auc_score(mean_of(test).argmax(dim=1) != truth, entropy(test)),
        *(roc_auc_score(is_foreign, torch.cat([score(test), score(others)])) for score in (entropy, bald)),
    ]


def log_probs_of(learner: Learner, which: str, n: int) -> Tensor:
    """Log-probabilities [n, k, c] of the draws."""
    return torch.cat([prediction.log_probs.cpu() for prediction in learner.predictions(which, torch.arange(n))])


def mean_of(log_probs: Tensor) -> Tensor:
    """Log of the mean over the draws."""
    return log_probs.logsumexp(dim=1) - np.log(log_probs.shape[1])


def spelled(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
