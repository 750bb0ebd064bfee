"""How fast a network is trained: images a second of the trainer, of a plain loop, and of the bare steps that neither can beat.

    python scripts/benchmark_training.py --steps 30 --repeats 5 --threads 2
    python scripts/benchmark_training.py --ensemble 5 --model frozen_head --steps 100    # members together against one by one

`plain` is a DataLoader over torchvision transforms (random crop with reflection, flip, to tensor, normalise), as tutorials have it;
its workers, `--workers`, take cores from the training. On CUDA it trains in float32 and the others in bfloat16. `bare` is forward, backward and the same optimizer over batches that lie
ready on the device. `streamed` is the trainer on a memory-mapped file that it may not keep in memory. All train the same network on
the same 32x32 images of CIFAR's size (random pixels: the time does not depend on them), take turns within each repeat, and give the
median of their rates and of the ratios within a repeat.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import clock, hardware
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from alframe.dataset.augment import PHOTO
from alframe.model.fast_resnet import FastResNet
from alframe.model.frozen import FeatureHead
from alframe.model.resnet import ResNet18
from alframe.model.small_cnn import SmallCNN
from alframe.pixels import Normalizer, Pixels
from alframe.rng import generator, scoped
from alframe.trainer.trainer import Lesson, Trainer
from alframe.types import Examples

SHAPE, N_CLASSES, N_FEATURES = (3, 32, 32), 10, 1280
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small_cnn": partial(SmallCNN, SHAPE, N_CLASSES),
    "fast_resnet": partial(FastResNet, SHAPE, N_CLASSES, width=16),
    "resnet18": partial(ResNet18, SHAPE, N_CLASSES),
    "frozen_head": partial(FeatureHead, (N_FEATURES,), N_CLASSES),
}
MEAN, DEVIATION = [0.5] * 3, [0.29] * 3


class Photos(Dataset[tuple[Tensor, int]]):
    """Images and labels one by one, as torchvision's own CIFAR-10 gives and transforms them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, DEVIATION),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, action="append", help="only this one (may be given again)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (default 64)")
    parser.add_argument("--steps", type=int, default=30, help="steps a measurement (default 30)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader (default 0)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--ensemble", type=int, metavar="MEMBERS", help="time so many networks, together and one by one"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{hardware(options.device)}; batch {options.batch}, {options.steps} steps, median of {options.repeats} repeats\n"
    )
    if options.ensemble:
        print(
            f"| network | one network | {options.ensemble} one by one | {options.ensemble} together |\n|---|---|---|---|"
        )
    else:
        print(
            "| network | bare | trainer | trainer, streamed | plain | trainer / bare | streamed / bare | trainer / plain |"
        )
        print("|---" * 8 + "|")
    for name in options.model or [name for name in NETWORKS if name != "frozen_head"]:
        print(ensemble_row(name, options) if options.ensemble else training_row(name, options), flush=True)


def training_row(name: str, options: argparse.Namespace) -> str:
    device, n = torch.device(options.device), options.batch * options.steps
    images, labels = samples(name, n)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "images.npy"), images)
        mapped = np.load(Path(folder, "images.npy"), mmap_mode="r")
        resident, streamed = Pixels(images, device, 1 << 40), Pixels(mapped, device, 0)
        data = Photos(images, labels)
        ways = {
            "bare": partial(bare, options, resident, labels),
            "trainer": partial(by_trainer, options, resident, labels),
            "streamed": partial(by_trainer, options, streamed, labels),
            "plain": partial(plain, options, data, device),
        }
        rounds = []
        for _ in range(options.repeats + 1):  # the first one warms up
            networks = {way: fresh(name, device) for way in ways}
            rounds.append({way: clock(partial(work, networks[way]), device) for way, work in ways.items()})
    taken = rounds[1:]
    rates = [f"{n / median(one[way] for one in taken):,.0f} img/s" for way in ways]
    ratios = [
        f"{median(one[over] / one[way] for one in taken):.2f}"
        for way, over in (("trainer", "bare"), ("streamed", "bare"), ("trainer", "plain"))
    ]
    return f"| {name} | {' | '.join([*rates, *ratios])} |"


def ensemble_row(name: str, options: argparse.Namespace) -> str:
    device, members = torch.device(options.device), options.ensemble
    images, labels = samples(name, options.batch * options.steps)
    pixels = Pixels(images, device, 1 << 40)
    lesson = lesson_of(name, pixels, labels)
    trainer = trainer_of(options)

    def one_by_one(networks: list[nn.Module]) -> None:
        for member, network in enumerate(networks):
            trainer.fit(network, lesson, stream(member))

    def together(networks: list[nn.Module]) -> None:
        trainer.fit_together(networks, lesson, [stream(member) for member in range(len(networks))])

    rounds = []
    for _ in range(options.repeats + 1):
        ways = ((one_by_one, 1), (one_by_one, members), (together, members))
        made = [(work, [fresh(name, device) for _ in range(count)]) for work, count in ways]
        rounds.append([clock(partial(work, networks), device) for work, networks in made])
    seconds = [median(column) for column in zip(*rounds[1:], strict=True)]
    ratios = ["", *(f" ({median(one[way] / one[0] for one in rounds[1:]):.2f}x)" for way in (1, 2))]
    return f"| {name} | {' | '.join(f'{s:.2f} s{ratio}' for s, ratio in zip(seconds, ratios, strict=True))} |"


def samples(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES, n)
    if name == "frozen_head":
        return rng.normal(size=(n, N_FEATURES)).astype(np.float32), labels
    return rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), labels


def fresh(name: str, device: torch.device) -> nn.Module:
    with scoped(generator(0, 0, name)):
        return NETWORKS[name]().to(device).train()


def trainer_of(options: argparse.Namespace) -> Trainer:
    return Trainer(
        optimizer=sgd, lr=0.01, epochs=1, min_steps=0, batch_size=options.batch, schedule="constant", warmup=0
    )


def sgd(params, lr: float, fused: bool | None = None) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused)


def stream(member: int) -> Callable[[str], torch.Generator]:
    return lambda purpose: generator(0, member, purpose)


def lesson_of(name: str, pixels: Pixels, labels: np.ndarray) -> Lesson:
    examples = Examples(torch.arange(len(labels)), torch.from_numpy(labels))
    prepare = Normalizer(pixels.take(torch.arange(64)).cpu().numpy(), pixels.device)
    return Lesson(pixels, examples, N_CLASSES, prepare, None if name == "frozen_head" else PHOTO)


def by_trainer(options: argparse.Namespace, pixels: Pixels, labels: np.ndarray, network: nn.Module) -> None:
    name = "frozen_head" if len(pixels.shape) == 1 else ""
    trainer_of(options).fit(network, lesson_of(name, pixels, labels), stream(0))


def bare(options: argparse.Namespace, pixels: Pixels, labels: np.ndarray, network: nn.Module) -> None:
    """The same batch again and again, ready on the device; the trainer's layout, precision and steps."""
    if pixels.device.type == "cuda":
        network.to(memory_format=torch.channels_last)
    x = pixels.take(torch.arange(options.batch)).float().div_(74).sub_(1.7)
    y = torch.from_numpy(labels[: options.batch]).to(pixels.device)
    optimizer = sgd(network.parameters(), lr=0.01, fused=True if pixels.device.type == "cuda" else None)
    for _ in range(options.steps):
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            loss = cross_entropy(network(x).float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def plain(options: argparse.Namespace, data: Photos, device: torch.device, network: nn.Module) -> None:
    optimizer = sgd(network.parameters(), lr=0.01)
    loader = DataLoader(
        data, options.batch, shuffle=True, num_workers=options.workers, pin_memory=device.type == "cuda"
    )
    total = 0.0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        loss = cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()


if __name__ == "__main__":
    main()
