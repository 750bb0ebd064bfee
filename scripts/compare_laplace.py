"""The last-layer Laplace posterior beside laplace-torch: the same precision and spread, and what they cost.

    python scripts/compare_laplace.py --threads 1

A linear layer is trained on drawn features; both fit a Kronecker-factored posterior to it, choose the prior precision by marginal
likelihood, and draw probabilities for the pool. `nn` draws weights and sets them in the network, as alframe's draws are; `glm`, its
default, linearises. Spread is the mean over pool and classes of the standard deviation over the draws.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from measure import hardware
from peers.client import Peer, PeerError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alframe.model.frozen import FeatureHead
from alframe.rng import generator, scoped
from alframe.uncertainty.laplace import LaplacePosterior

SIZES = ((500, 64, 10), (2000, 512, 10), (2000, 1280, 10))
N_POOL, DRAWS = 2000, 100


@dataclass(frozen=True)
class Problem:
    """A trained head, its features [n, d] and labels, and the pool's features."""

    network: FeatureHead
    features: Tensor
    labels: Tensor
    pool: Tensor

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.features.split(256), self.labels.split(256), strict=True)


def problem(n: int, d: int, c: int) -> Problem:
    stream = generator(0, 0, "data")
    features, pool = torch.randn(n, d, generator=stream), torch.randn(N_POOL, d, generator=stream)
    scores = features @ torch.randn(d, c, generator=stream) * (2 / d**0.5) + torch.randn(n, c, generator=stream)
    with scoped(generator(0, 0, "init")):
        network = FeatureHead((d,), c, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(network(features), scores.argmax(dim=1)).backward()
        optimizer.step()
    return Problem(network.eval(), features, scores.argmax(dim=1), pool)


def ours(p: Problem) -> dict[str, float]:
    begin = time.perf_counter()
    posterior = LaplacePosterior(p.network, p.batches(), DRAWS, None, generator(0, 0, "draws"))
    fitted = time.perf_counter()
    probs = posterior.predict(p.pool).log_probs.exp()
    seconds = time.perf_counter()
    spread = float(probs.std(dim=1).mean())
    return {
        "precision": posterior.prior_precision,
        "fit_s": fitted - begin,
        "predict_s": seconds - fitted,
        "spread": spread,
    }


def theirs(peer: Peer, p: Problem, pred_type: str) -> dict[str, float]:
    layer: nn.Linear = p.network.classifier
    case = {"weight": layer.weight.detach(), "bias": layer.bias.detach()}
    case |= {"features": p.features, "labels": p.labels, "pool": p.pool}
    arrays = {name: value.numpy() for name, value in case.items()}
    return peer.ask("last_layer", arrays, 1, 0, {"draws": DRAWS, "pred_type": pred_type}).notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{hardware()}; {N_POOL:,} pool images, {DRAWS} draws\n")
    print(
        "| labels, features, classes | who | precision | spread | fit | draws for the pool |\n|---|---|---|---|---|---|"
    )
    with Peer("laplace-torch") as peer:
        for size in SIZES:
            p = problem(*size)
            rows = {"alframe": lambda p=p: ours(p)}
            rows |= {f"laplace-torch, {kind}": lambda p=p, kind=kind: theirs(peer, p, kind) for kind in ("nn", "glm")}
            for who, row in rows.items():
                try:
                    found = row()
                    cells = f"{found['precision']:.2f} | {found['spread']:.4f} | {found['fit_s']:.2f} s | {found['predict_s']:.2f} s"
                except PeerError as error:
                    cells = f"{error} | | | "
                print(f"| {', '.join(map(str, size))} | {who} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
