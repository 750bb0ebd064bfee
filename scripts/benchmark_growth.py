"""How seconds and extra memory of `select` grow with the pool, for every strategy.

    python scripts/benchmark_growth.py                                    # every leaf at 10k, 50k, 200k and 1M
    python scripts/benchmark_growth.py bald uherding --sizes 10000 50000  # some
    python scripts/benchmark_growth.py anomaly mix defect_first --sizes 10000 50000  # these compare all pairs: hours at 1M

Features of 128 numbers in 100 clusters, 10 classes, 10 draws (1 for a strategy that needs no more), 1,000 labelled images, 500 target and 500 validation images,
a query of 100, `query.max_bytes` of 1 GiB. Each cell runs in a fresh process: its memory is the high-water mark of the
resident set while `select` works, less the resident set before (Linux). `n log n` is the growth of the seconds from the second largest
to the largest pool, as a multiple of what n log n would give.
"""

import argparse
import math
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from hydra.utils import instantiate
from measure import extra_bytes
from torch import Tensor

from alframe.config.schema import CONFIGS, composer
from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Summary

SIZES = (10_000, 50_000, 200_000, 1_000_000)
D, C, K, Q = 128, 10, 10, 100
N_LABELED, N_OTHER = 1_000, 500
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Problem:
    """A last layer, K disturbed copies of it, and features in clusters."""

    weight: Tensor
    draws: Tensor
    centres: Tensor

    def head(self, features: Tensor) -> Tensor:
        return features @ self.weight.T

    def features(self, n: int, seed: int) -> Tensor:
        stream = seeded(seed)
        which = torch.randint(len(self.centres), (n,), generator=stream)
        return torch.randn(n, D, generator=stream).mul_(0.5).add_(self.centres[which])

    def summary(self, strategy: Strategy, features: Tensor) -> Summary:
        """What the pool pass leaves, filled batch by batch as the loop does."""
        whole: Summary = {}
        draws = self.draws if strategy.min_draws > 1 else self.draws[:1]
        for start in range(0, len(features), 4096):
            x = features[start : start + 4096]
            log_probs = torch.einsum("bd,kcd->bkc", x, draws).log_softmax(dim=-1)
            part = strategy.summarize(Prediction(log_probs, x, self.head(x).log_softmax(dim=-1)))
            if not whole:
                whole = {name: torch.empty(len(features), *t.shape[1:], dtype=t.dtype) for name, t in part.items()}
            for name, tensor in part.items():
                whole[name][start : start + len(x)] = tensor
        return whole


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem() -> Problem:
    weight = torch.randn(C, D, generator=seeded(1)) / math.sqrt(D)
    return Problem(
        3 * weight,
        3 * weight + torch.randn(K, C, D, generator=seeded(2)) / math.sqrt(D),
        torch.randn(100, D, generator=seeded(3)),
    )


def measure(name: str, n: int) -> tuple[float, int]:
    """Seconds and extra bytes of one select; runs in a fresh process."""
    warnings.simplefilter("ignore")  # BatchBALD says that ten draws are few
    with composer() as compose:
        strategy = instantiate(compose([f"strategy={name}"]).strategy).at(0, 0, (0,) * C)
    of = problem()
    narrowed = strategy.subset(n, Q, seeded(0))
    pool = (
        of.summary(strategy, of.features(n if narrowed is None else len(narrowed), 4))
        if strategy.needs_pool_pass
        else {}
    )
    labeled = of.features(N_LABELED, 5)
    view = PoolView(
        n=n if narrowed is None else len(narrowed),
        pool=pool,
        n_classes=C,
        labeled=of.summary(strategy, labeled) if "labeled" in strategy.needs else None,
        labels=of.head(labeled).argmax(dim=1) if "labeled" in strategy.needs else None,
        target=of.summary(strategy, of.features(N_OTHER, 6)) if "target" in strategy.needs else None,
        held_out=of.summary(strategy, of.features(N_OTHER, 7)) if "held_out" in strategy.needs else None,
        held_out_labels=of.head(of.features(N_OTHER, 7)).argmax(dim=1) if "held_out" in strategy.needs else None,
        head=of.head if "head" in strategy.needs else None,
        fixed=of.features(n if narrowed is None else len(narrowed), 4) if "fixed" in strategy.needs else None,
        fixed_labeled=labeled if "fixed" in strategy.needs else None,
        max_bytes=MAX_BYTES,
    )
    begin = time.perf_counter()
    extra = extra_bytes(lambda: strategy.select(view, Q, seeded(0)))
    return time.perf_counter() - begin, extra


def leaves() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "strategy").glob("*.yaml") if path.stem != "custom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=leaves(), help="names of YAML leaves")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    options = parser.parse_args()
    unknown = sorted(set(options.strategies) - set(leaves()))
    if unknown:
        parser.error(f"expected strategies among {', '.join(leaves())}, got {', '.join(unknown)}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; seconds (extra MB)\n")
    print(f"| strategy | {' | '.join(f'{n:,}' for n in options.sizes)} | n log n |")
    print(f"|---|{'---|' * (len(options.sizes) + 1)}", flush=True)
    for name in options.strategies:
        cells, seconds = [], []
        for n in options.sizes:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                taken, extra = fresh.submit(measure, name, n).result()
            seconds.append(taken)
            cells.append(f"{taken:.2f} ({extra / 1e6:.0f})")
        growth = ""
        if len(seconds) > 1:
            small, large = options.sizes[-2:]
            growth = f"{seconds[-1] / seconds[-2] / (large * math.log(large) / (small * math.log(small))):.1f}"
        print(f"| {name} | {' | '.join(cells)} | {growth} |", flush=True)


if __name__ == "__main__":
    main()
