"""How fast the pool is read: one deterministic pass, Monte Carlo dropout by alframe, as many full passes with dropout on, and baal.

    python scripts/benchmark_inference.py --draws 20 --images 256 --repeats 5 --threads 2
    python scripts/benchmark_inference.py --threads 1 --baal     # and baal, in an environment that it makes

All are timed in turn within each repeat, so that a busy machine slows all of them; the tables give medians over the repeats
of images a second, and medians of the ratios within a repeat. small_cnn and resnet18 have dropout before the head only, vgg16
between the layers of its classifier too, wide_resnet28 in all its blocks, where little can be computed once for all draws.

baal's `predict_on_dataset` is timed in both its modes, all draws of a batch at once (its default) and one after another, without
worker processes. `rank` is the rank correlation of its BALD scores with alframe's, at many draws on a few images, by networks that
are trained a little on drawn images: an untrained one is equally unsure of all.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from measure import clock, hardware
from peers.client import Peer
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from alframe import scores
from alframe.model.base import Network
from alframe.model.resnet import ResNet18
from alframe.model.small_cnn import SmallCNN
from alframe.model.torchvision_model import Torchvision
from alframe.model.wide_resnet import WideResNet28
from alframe.rng import generator, scoped
from alframe.uncertainty.base import Passes
from alframe.uncertainty.mc_dropout import MCDropoutPosterior

SHAPE, CLASSES = (3, 32, 32), 10
NETWORKS: dict[str, Callable[..., Network]] = {
    "small_cnn": SmallCNN,
    "resnet18": ResNet18,
    "vgg16": partial(Torchvision, name="vgg16"),
    "wide_resnet28": partial(WideResNet28, width=2, block_dropout=0.3),
}
FEW = {"vgg16": 32, "wide_resnet28": 32}
"""Images at most, where a pass is slow and nothing changes with more of them."""
STEPS = {"small_cnn": 100, "resnet18": 25}
"""Training steps before ranks are compared; the other networks would take too long to train."""
MODES = {"baal": True, "baal, draw by draw": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="how many 32x32 images (default 256)")
    parser.add_argument("--batch", type=int, default=256, help="batch size (default 256)")
    parser.add_argument("--draws", type=int, default=20, help="posterior draws (default 20)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=NETWORKS, action="append", help="only this one (may be given again)")
    parser.add_argument("--baal", action="store_true", help="baal too (on the CPU)")
    parser.add_argument("--baal-batch", type=int, default=32, help="its batch size (default 32, as it is baal's)")
    parser.add_argument(
        "--rank-draws", type=int, default=500, help="draws for the rank correlation (default 500; 0: none)"
    )
    parser.add_argument("--rank-images", type=int, default=32, help="images for it (default 32)")
    options = parser.parse_args()
    if options.baal and options.device != "cpu":
        parser.error(f"expected --device cpu with --baal, got {options.device}: the two would not run on the same")
    torch.set_num_threads(options.threads)

    print(hardware(options.device))
    print(
        f"32x32 pixels, batch {options.batch}, {options.draws} draws, median of {options.repeats} repeats; images/s\n"
    )
    heads = ["deterministic", "mc_dropout", "full passes", "mc / deterministic", "full / mc"]
    if options.baal:
        heads += [*MODES, *(f"{mode} / mc" for mode in MODES), "rank"]
    print(f"| network | images | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 2) + "|", flush=True)
    for name in options.model or NETWORKS:
        n = min(options.images, FEW.get(name, options.images))
        print(f"| {name} | {n} | {' | '.join(row(name, n, options))} |", flush=True)


def row(name: str, n: int, options: argparse.Namespace) -> list[str]:
    """The cells of one network."""
    device = torch.device(options.device)
    images = torch.randn(n, *SHAPE, generator=generator(0, 0, "images"))
    runs = passes(build(name).to(device).eval(), images.to(device).split(options.batch), options.draws)
    ways: list[Callable[[], float]] = [partial(clock, run, device) for run in runs]
    if not options.baal:
        return cells(in_turn(ways, options.repeats), n)
    with Peer("baal") as peer:
        case = peer.store({"images": images.numpy()})
        told: dict[str, object] = {"network": ["benchmark_inference", "build", name], "draws": options.draws}
        told |= {"batch_size": options.baal_batch, "threads": options.threads}

        def ask(replicate: bool) -> float:
            return peer.ask("predict", case, 0, options={**told, "replicate": replicate}, measure=False).seconds

        ways += [partial(ask, replicate) for replicate in MODES.values()]
        return [*cells(in_turn(ways, options.repeats), n), rank(name, peer, told, options)]


def in_turn(ways: list[Callable[[], float]], repeats: int) -> np.ndarray:
    """Seconds [repeats, ways], after one turn to warm up."""
    return np.array([[way() for way in ways] for _ in range(repeats + 1)])[1:]


def cells(seconds: np.ndarray, n: int) -> list[str]:
    """Of seconds [repeats, ways]."""
    once, mc, full, *baal = seconds.T
    found = [f"{n / median(way):,.0f}" for way in (once, mc, full)]
    found += [f"{median(mc / once):.2f}", f"{median(full / mc):.1f}"]
    return [*found, *(f"{n / median(way):,.0f}" for way in baal), *(f"{median(way / mc):.1f}" for way in baal)]


def build(name: str) -> Network:
    """The network as initialised, the same in every process."""
    with scoped(generator(0, 0, name)):
        return NETWORKS[name](SHAPE, CLASSES)


def passes(network: Network, batches: tuple[Tensor, ...], draws: int) -> list[Callable[[], object]]:
    """One deterministic pass, `draws` draws by the library, `draws` whole passes as one would write them by hand."""
    once = Passes([network])
    many = MCDropoutPosterior(network, draws, seed=0, method="auto", max_bytes=1 << 28)
    dropout = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]

    @torch.no_grad()
    def full(x: Tensor) -> Tensor:
        for layer in dropout:
            layer.train()
        log_probs = torch.stack([network(x).log_softmax(dim=-1) for _ in range(draws)], dim=1)
        for layer in dropout:
            layer.eval()
        return log_probs

    return [lambda run=run: [run(batch) for batch in batches] for run in (once.predict, many.predict, full)]


def rank(name: str, peer: Peer, told: dict[str, object], options: argparse.Namespace) -> str:
    """Spearman's correlation between the BALD scores of a trained network by alframe and by baal."""
    if name not in STEPS or not options.rank_draws:
        return ""
    network = build(name)
    train(network, STEPS[name])
    images, _ = mixtures(options.rank_images, "scored")
    posterior = MCDropoutPosterior(network, options.rank_draws, seed=0, method="auto", max_bytes=1 << 28)
    ours = scores.bald(posterior.predict(images).log_probs)
    weights = {f"weights/{key}": value.numpy() for key, value in network.state_dict().items()}
    asked = {**told, "draws": options.rank_draws, "replicate": False}
    theirs = peer.ask("predict_bald", {"images": images.numpy(), **weights}, 0, options=asked, measure=False).scores
    return f"{spearmanr(ours, theirs).statistic:.3f}"


def train(network: Network, steps: int, batch: int = 16) -> None:
    """A few steps of Adam on drawn images; leaves the network in eval mode."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None  # the mean over all steps: these are few
    images, labels = mixtures(steps * batch, "training")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    network.train()
    with scoped(generator(0, 0, "dropout")):
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            optimizer.zero_grad()
            cross_entropy(network(x), y).backward()
            optimizer.step()
    network.eval()


def mixtures(n: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Noisy patterns, one for each class, each mixed with up to a half of another: from plain to undecided."""
    stream = generator(0, 0, purpose)
    coarse = torch.randn(CLASSES, SHAPE[0], 4, 4, generator=generator(0, 0, "patterns"))
    patterns = interpolate(coarse, size=SHAPE[1:], mode="bilinear")
    first, second = torch.randint(CLASSES, (2, n), generator=stream)
    share = torch.rand(n, 1, 1, 1, generator=stream) / 2
    noise = torch.randn(n, *SHAPE, generator=stream) / 2
    return (1 - share) * patterns[first] + share * patterns[second] + noise, first


if __name__ == "__main__":
    main()
