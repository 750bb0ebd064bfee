"""How fast the pool is read: one deterministic pass, Monte Carlo dropout by alframe, and as many full passes with dropout on.

    python scripts/benchmark_inference.py --draws 20 --images 256 --repeats 5 --threads 2

The three are timed in turn within each repeat, so that a busy machine slows all of them; the table gives medians over the repeats
of images a second, and medians of the ratios within a repeat.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from alframe.model.base import Network
from alframe.model.resnet import ResNet18
from alframe.model.small_cnn import SmallCNN
from alframe.rng import generator, scoped
from alframe.uncertainty.mc_dropout import MCDropout
from alframe.uncertainty.point import Point

SHAPE = (3, 32, 32)
NETWORKS: dict[str, type[Network]] = {"small_cnn": SmallCNN, "resnet18": ResNet18}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="how many 32x32 images (default 256)")
    parser.add_argument("--batch", type=int, default=256, help="batch size (default 256)")
    parser.add_argument("--draws", type=int, default=20, help="posterior draws (default 20)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=NETWORKS, action="append", help="only this one (may be given again)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    batches = (
        torch.randn(arguments.images, *SHAPE, generator=generator(0, 0, "images")).to(device).split(arguments.batch)
    )

    print(hardware(device))
    print(
        f"{arguments.images} images of 32x32, batch {arguments.batch}, {arguments.draws} draws, median of {arguments.repeats} repeats"
    )
    print(
        f"{'model':<10} {'deterministic':>15} {'mc_dropout':>15} {'full passes':>15} {'mc / deterministic':>19} {'full / mc':>10}"
    )
    for name in arguments.model or NETWORKS:
        with scoped(generator(0, 0, name)):
            network = NETWORKS[name](SHAPE, 10).to(device).eval()
        runs = passes(network, arguments.draws)
        seconds = [[timed(run, batches, device) for run in runs] for _ in range(arguments.repeats + 1)][
            1:
        ]  # one to warm up
        rates = [arguments.images / median(column) for column in zip(*seconds, strict=True)]
        cost = median(mc / once for once, mc, _ in seconds)
        gain = median(full / mc for _, mc, full in seconds)
        print(
            f"{name:<10}" + "".join(f" {rate:>9.0f} img/s" for rate in rates) + f" {cost:>18.2f}x {gain:>9.1f}x",
            flush=True,
        )


def passes(network: Network, draws: int) -> list[Callable[[Tensor], object]]:
    """One deterministic pass, `draws` draws by the library, `draws` whole passes as one would write them by hand."""
    once = Point().fit(lambda member: network, generator(0, 0, "point"))
    many = MCDropout(draws=draws).fit(lambda member: network, generator(0, 0, "masks"))

    @torch.no_grad()
    def full(x: Tensor) -> Tensor:
        dropout = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
        for layer in dropout:
            layer.train()
        log_probs = torch.stack([network(x).log_softmax(dim=-1) for _ in range(draws)], dim=1)
        for layer in dropout:
            layer.eval()
        return log_probs

    return [once.predict, many.predict, full]


def timed(run: Callable[[Tensor], object], batches: tuple[Tensor, ...], device: torch.device) -> float:
    start = time.perf_counter()
    for batch in batches:
        run(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return (
        f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
