"""One whole experiment three ways: by alframe, by a plain loop as one would write it for this experiment alone, and by baal.

    python scripts/prepare_data.py fashion_mnist && python scripts/benchmark_loop.py --seeds 3 --threads 1
    python scripts/benchmark_loop.py --no-baal --repeats 3    # alframe and the plain loop only

Fashion-MNIST, a pool of 10,000 and all 10,000 test images; 100 labels, then five queries of 100 by BALD with 10 draws of dropout. A
small network learns from scratch in every round (20 epochs of Adam, lr 0.001, batches of 128) and is tested by the mean of as many
draws. All three begin with the same labels and take the same number of steps; alframe fills up the last batch of an epoch, so it
trains on 1.15 times as many images. Images lie in memory in all three: alframe gets bytes, the others get them normalised.

The ways are run in turn for each repeat and seed, in alternating order, so that a busy machine slows all of them; each in a fresh process that has been
through a tiny experiment first, `start-up` in the table: imports and first calls. The table gives medians of the seconds, the mean
accuracy over the seeds, and the high-water mark of the resident set less what it was before. baal predicts draw by draw, which on a
CPU is faster than its default; `--baal-replicate` is that.
"""

import argparse
import io
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from statistics import mean, median

import numpy as np
import torch
from measure import extra_bytes, hardware
from peers.client import Peer
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alframe import Experiment, run, scores
from alframe.annotator.oracle import Oracle
from alframe.budget import Budget, draw_initial
from alframe.console import RoundTable
from alframe.dataset.cache import default_cache
from alframe.dataset.torchvision_sets import FashionMnist
from alframe.images import Data
from alframe.model.base import Network
from alframe.pixels import Normalizer
from alframe.rng import generator
from alframe.strategy.top_score import TopScore
from alframe.trainer.trainer import Trainer
from alframe.uncertainty.mc_dropout import MCDropout

STAGES = ("fit", "pool", "select", "test")


@dataclass(frozen=True)
class Task:
    """What all three do."""

    pool_size: int = 10_000
    test_size: int = 10_000
    initial: int = 100
    query_size: int = 100
    rounds: int = 5
    draws: int = 10
    stratified: bool = False
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.001


TINY = Task(pool_size=300, test_size=300, initial=20, query_size=10, rounds=1, epochs=1)


@dataclass(frozen=True)
class Result:
    """One run: seconds by stage and as a whole, test accuracy of each round, extra bytes; `startup_s` is a tiny run before."""

    stages: dict[str, float]
    accuracies: list[float]
    seconds: float = 0.0
    extra_bytes: int = 0
    startup_s: float = 0.0


class ExampleCNN(Network):
    """The network of many MNIST examples: two 3x3 convolutions, each with ReLU and 2x2 pooling, a layer of 128, dropout."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        side = ((shape[1] - 2) // 2 - 2) // 2
        self.trunk = nn.Sequential(
            nn.Conv2d(shape[0], 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * side * side, 128),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(128, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))


def by_alframe(task: Task, data: Data, seed: int, tensorboard: bool) -> Result:
    """Through the Python API, with what a run writes: ledger, queries, provenance, rounds, and TensorBoard if wanted."""
    experiment = Experiment(
        data=data,
        model=ExampleCNN,
        trainer=Trainer(
            optimizer=torch.optim.Adam,
            lr=task.lr,
            epochs=task.epochs,
            min_steps=0,
            batch_size=task.batch_size,
            schedule="constant",
            warmup=0,
        ),
        uncertainty=MCDropout(draws=task.draws, stratified=task.stratified),
        strategy=TopScore(scores.bald, min_draws=2),
        annotator=Oracle(),
        budget=Budget(initial=task.initial, query_size=task.query_size, rounds=task.rounds),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        table = RoundTable(binary=False, console=Console(file=io.StringIO()))
        lines = run(experiment, folder, tensorboard=tensorboard, table=table).rounds
    keys = {"fit": "fit_s", "pool": "pool_s", "select": "select_s", "test": "evaluate_s"}
    stages = {stage: sum(line.get(key, 0.0) for line in lines) for stage, key in keys.items()}
    return Result(stages=stages, accuracies=[line["test/accuracy"] for line in lines])


def by_hand(task: Task, images: dict[str, np.ndarray], seed: int) -> Result:
    """The plain loop. It knows that dropout comes last, and runs what lies before it once."""
    torch.manual_seed(seed)
    x, y = torch.from_numpy(images["images"]), torch.from_numpy(images["labels"])
    x_test, y_test = torch.from_numpy(images["test_images"]), torch.from_numpy(images["test_labels"])
    labeled = torch.from_numpy(images["initial"])
    seconds: dict[str, float] = defaultdict(float)
    accuracies = []
    for round in range(task.rounds + 1):
        with timed(seconds, "fit"):
            network = fit(task, x[labeled], y[labeled])
        with timed(seconds, "test"):
            probs = draw(task, network, x_test).mean(dim=1)
            accuracies.append(float((probs.argmax(dim=1) == y_test).float().mean()))
        if round < task.rounds:
            unlabeled = torch.ones(len(x), dtype=torch.bool).index_fill_(0, labeled, False).nonzero().squeeze(1)
            with timed(seconds, "pool"):
                probs = draw(task, network, x[unlabeled])
            with timed(seconds, "select"):
                bald = entropy(probs.mean(dim=1)) - entropy(probs).mean(dim=1)
                labeled = torch.cat([labeled, unlabeled[bald.topk(task.query_size).indices]])
    return Result(stages=dict(seconds), accuracies=accuracies)


def fit(task: Task, x: Tensor, y: Tensor) -> ExampleCNN:
    network = ExampleCNN(tuple(x.shape[1:]), 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=task.lr)
    for _ in range(task.epochs):
        for rows in torch.randperm(len(x)).split(task.batch_size):
            loss = cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@torch.no_grad()
def draw(task: Task, network: ExampleCNN, x: Tensor) -> Tensor:
    """Probabilities [n, k, c]; the network is in training mode, so dropout is on."""
    batches = []
    for batch in x.split(256):
        h = network.embed(batch)
        batches.append(torch.stack([network.head(h) for _ in range(task.draws)], dim=1).softmax(dim=-1))
    return torch.cat(batches)


def entropy(probs: Tensor) -> Tensor:
    return torch.special.entr(probs).sum(dim=-1)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - begin


def load(task: Task) -> Data:
    return FashionMnist(pool_size=task.pool_size, test_size=task.test_size, augmentation=None).load(default_cache())


def arrays(task: Task, data: Data, seed: int) -> dict[str, np.ndarray]:
    """What the two others start from: normalised images, labels, and the rows of alframe's initial labels."""
    prepare = Normalizer(data.pool.pixels, torch.device("cpu"))
    images, test_images = (prepare(torch.from_numpy(np.array(s.pixels))).numpy() for s in (data.pool, data.test))
    stream = generator(seed, 0, "initial")
    initial = draw_initial(data.pool.labels, np.arange(len(images)), task.initial, "random", 10, stream)
    labels = {"labels": data.pool.labels, "test_labels": data.test.labels, "initial": initial}
    return {"images": images, "test_images": test_images, **labels}


def measured(way: str, task: Task, seed: int, threads: int, tensorboard: bool) -> Result:
    """One of our two ways. Runs in a fresh process: the memory is true in such a one only."""
    torch.set_num_threads(threads)

    def prepared(task: Task) -> Callable[[], Result]:
        data = load(task)
        if way == "alframe":
            return partial(by_alframe, task, data, seed, tensorboard)
        return partial(by_hand, task, arrays(task, data, seed), seed)

    startup_s = clocked(prepared(TINY)).seconds
    work, found = prepared(task), []
    extra = extra_bytes(lambda: found.append(clocked(work)))
    return replace(found[0], extra_bytes=extra, startup_s=startup_s)


def clocked(work: Callable[[], Result]) -> Result:
    begin = time.perf_counter()
    result = work()
    return replace(result, seconds=time.perf_counter() - begin)


def by_baal(task: Task, seed: int, **options: object) -> Result:
    """In its own environment; `options` are those of the adapter."""
    with Peer("baal") as peer:
        answers = []
        for which in (TINY, task):
            sizes = {name: getattr(which, name) for name in ("rounds", "draws", "epochs", "batch_size", "lr")}
            told = {"network": ["benchmark_loop", "ExampleCNN"], **sizes, **options}
            answers.append(peer.ask("experiment", arrays(which, load(which), seed), which.query_size, seed, told))
    startup, whole = answers
    return Result(**whole.notes, seconds=whole.seconds, extra_bytes=whole.extra_bytes, startup_s=startup.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    parser.add_argument("--repeats", type=int, default=1, help="runs for each seed (default 1)")
    parser.add_argument("--draws", type=int, default=Task.draws, help="draws of dropout (default 10)")
    parser.add_argument("--stratified", action="store_true", help="alframe's with uncertainty.stratified=true")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument(
        "--baal", action=argparse.BooleanOptionalAction, default=True, help="baal too (about 4 minutes a run)"
    )
    parser.add_argument("--baal-test-draws", type=int, help="draws it is tested with (default: all)")
    parser.add_argument("--baal-replicate", action="store_true", help="its default: all draws of a batch at once")
    parser.add_argument(
        "--tensorboard", action="store_true", help="alframe's, with its figures: about a second a round"
    )
    options = parser.parse_args()
    task = Task(draws=options.draws, stratified=options.stratified)
    torch.set_num_threads(options.threads)
    print(f"{hardware()}, TensorBoard {'on' if options.tensorboard else 'off'}", flush=True)
    ways = ["alframe", "plain", *(["baal"] if options.baal else [])]
    runs: dict[str, list[Result]] = defaultdict(list)
    for seed in range(options.seeds):
        for _ in range(options.repeats):
            ways.reverse()  # none is always the one that begins
            for way in ways:
                result = once(way, task, seed, options)
                runs[way].append(result)
                print(f"seed {seed}: {way} {result.seconds:.1f} s, {result.accuracies[-1]:.3f}", flush=True)

    labels = task.initial + task.rounds * task.query_size
    print(f"\n| way | seconds | {' | '.join(STAGES)} | start-up | accuracy at {labels} labels | extra memory |")
    print("|---" * (len(STAGES) + 5) + "|")
    for way, results in runs.items():
        cells = [f"{median(result.seconds for result in results):.1f}"]
        cells += [f"{median(result.stages[stage] for result in results):.2f}" for stage in STAGES]
        cells += [f"{median(result.startup_s for result in results):.1f}"]
        cells += [f"{mean(result.accuracies[-1] for result in results):.3f}"]
        cells += [f"{median(result.extra_bytes for result in results) / 1e6:.0f} MB"]
        print(f"| {way} | {' | '.join(cells)} |")
    print(f"\nalframe takes {ratio(runs, 'alframe', 'plain'):.2f} times as long as the plain loop", end="")
    print(f"; baal {ratio(runs, 'baal', 'alframe'):.1f} times as long as alframe" if options.baal else "")


def once(way: str, task: Task, seed: int, options: argparse.Namespace) -> Result:
    if way == "baal":
        told = {"threads": options.threads, "test_draws": options.baal_test_draws or options.draws}
        return by_baal(task, seed, **told, replicate=options.baal_replicate)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(measured, way, task, seed, options.threads, options.tensorboard).result()


def ratio(runs: dict[str, list[Result]], of: str, to: str) -> float:
    """Median over the repeats of the ratio within each."""
    return median(a.seconds / b.seconds for a, b in zip(runs[of], runs[to], strict=True))


if __name__ == "__main__":
    main()
