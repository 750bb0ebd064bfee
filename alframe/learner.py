"""The network side of the loop: fit the posterior to the labelled images, read predictions off any images."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from alframe.console import progress
from alframe.errors import ConfigError, RunFolderError, TrainingError
from alframe.images import Data, FixedAugment, FixedView, ImageSet
from alframe.pixels import Normalizer, Pixels
from alframe.rng import generator, scoped
from alframe.trainer.trainer import Examples, FitReport, Stream, Trainer
from alframe.types import Prediction
from alframe.uncertainty.base import Method, Posterior, Uncertainty, View
from alframe.uncertainty.tempered import Tempered

POOL, TEST, TARGET = "pool", "test", "target"


class Learner:
    """Owns the device: images, networks, posterior. `build_network(shape, n_classes)` makes an untrained network.

    `target` are unlabelled images that some strategies ask about, where these are neither the pool nor the test set.
    `views` are the images of "pool", "test" and "target" under each of `uncertainty.n_views` fixed transformations, where the
    data are features; views of images are made when they are looked at. Raises ConfigError where they cannot be.
    """

    def __init__(
        self,
        data: Data,
        build_network: Callable[[tuple[int, ...], int], nn.Module],
        trainer: Trainer,
        uncertainty: Uncertainty,
        *,
        seed: int,
        device: torch.device,
        batch_size: int = 256,
        resident_bytes: int = 4 << 30,
        show_progress: bool = False,
        target: ImageSet | None = None,
        views: Mapping[str, Sequence[ImageSet]] | None = None,
    ) -> None:
        self.device, self.seed, self.batch_size, self.show_progress = device, seed, batch_size, show_progress
        self.n_classes, self.shape, self.augment = data.pool.n_classes, data.pool.shape, data.augment
        self.build_network, self.trainer, self.uncertainty = build_network, trainer, uncertainty
        share = resident_bytes // (1 + uncertainty.n_views) if views else resident_bytes
        self.pixels = {
            name: Pixels(images.pixels, device, share)
            for name, images in ((POOL, data.pool), (TEST, data.test), (TARGET, target))
            if images is not None
        }
        self.views = {
            name: [Pixels(images.pixels, device, share) for images in sets] for name, sets in (views or {}).items()
        }
        self.fixed_views = [] if views else fixed_views(data.augment, uncertainty.n_views)
        self.prepare = Normalizer(data.begun.pool.pixels, device, data.normalization)
        self.posterior: Posterior | None = None
        self._last_weights: list[dict[str, Tensor]] | None = None

    def fit(self, training: Examples, validation: Examples, round: int) -> dict[str, float]:
        """Fit every network of the posterior; returns `train/loss`, the mean over the networks, and the posterior's numbers.

        Without a single label the networks stay as they were initialised.
        """
        task = _Task(self, training, validation, round)
        self.posterior = self._posterior(task)
        if self.trainer.warm_start:
            self._last_weights = [
                {key: value.detach().clone() for key, value in network.state_dict().items()}
                for network in self.posterior.networks
            ]
        losses = [report.loss for report in task.reports]
        mean_loss = {"train/loss": math.fsum(losses) / len(losses)} if losses else {}
        return {**mean_loss, **self.posterior.numbers}

    def restore(self, path: Path, training: Examples, validation: Examples, round: int) -> None:
        """The posterior that `fit` ended with in `round`, from the weights that `save` wrote.

        What is not in the file (curvature, masks, temperature) follows from the same images and streams. Raises `RunFolderError`
        for a file that is damaged or belongs to other networks.
        """
        try:
            self.posterior = self._posterior(_Task(self, training, validation, round, _read_weights(path)))
        except (IndexError, RuntimeError) as error:  # a member or a layer that is not there
            raise RunFolderError(
                f"Expected the weights of this run's networks in {path}, got: {str(error).splitlines()[0]}; "
                "remove that file, and the round is trained again."
            ) from error

    def _posterior(self, task: "_Task") -> Posterior:
        posterior = self.uncertainty.fit(task, generator(self.seed, task.round, "posterior"))
        return Tempered.fit(posterior, task.validation()) if self.uncertainty.temperature else posterior

    def predictions(self, which: str, rows: Tensor, description: str = "") -> Iterator[Prediction]:
        """A `Prediction` for each batch of `rows` of the pool, the test or the target set, under the evaluation transform, in order."""
        enabled = self.show_progress and bool(description)
        for x, view in progress(self.batches(which, rows), description, -(-len(rows) // self.batch_size), enabled):
            with torch.no_grad():
                prediction = self.fitted.predict(x, view)
            yield prediction

    def features(self, which: str, rows: Tensor) -> Iterator[Tensor]:
        """The features of a `Prediction`, float32 [b, d], for each batch of `rows`: one deterministic pass, whatever the posterior."""
        for x, _ in self.batches(which, rows):
            with torch.no_grad():
                features = self.fitted.networks[0].embed(x).float()  # type: ignore[operator]
            yield features

    def batches(self, which: str, rows: Tensor) -> Iterator[tuple[Tensor, View]]:
        """Normalised batches of `rows` of the pool, the test or the target set, each with its views."""
        split = rows.split(self.batch_size) if len(rows) else ()
        for raw, batch in zip(self.pixels[which].stream(split), split, strict=True):
            yield self.prepare(raw), partial(self._view, which, batch, raw)

    def _view(self, which: str, rows: Tensor, raw: Tensor, j: int) -> Tensor:
        if which in self.views:
            return self.prepare(self.views[which][j].take(rows))
        return self.prepare(self.fixed_views[j](raw))

    def mean_log_probs(self, which: str, rows: Tensor, description: str = "") -> Tensor:
        """Log of the mean probabilities of `rows`, float32 [len(rows), c] on the CPU. Raises `TrainingError` where they are NaN."""
        batches = [prediction.mean_log_probs.cpu() for prediction in self.predictions(which, rows, description)]
        log_probs = torch.cat(batches) if batches else torch.empty(0, self.n_classes)
        if torch.isnan(log_probs).any():
            bad = int(torch.isnan(log_probs).any(dim=1).nonzero()[0])
            raise TrainingError(
                f"Expected finite predictions, got NaN for row {int(rows[bad])} of the {which} images; "
                "lower trainer.lr, set trainer.gradient_clip=1.0, or use trainer.precision=fp32."
            )
        return log_probs

    @property
    def fitted(self) -> Posterior:
        assert self.posterior is not None, "the loop fits before it predicts"
        return self.posterior

    def save(self, path: Path) -> None:
        """Weights of every network to one safetensors file (temporary file, then rename)."""
        tensors: dict[str, Tensor] = {}
        for member, network in enumerate(self.fitted.networks):
            tensors |= {
                f"{member}.{key}": value.detach().cpu().contiguous() for key, value in network.state_dict().items()
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary)
        temporary.replace(path)

    def load_warm_start(self, path: Path) -> None:
        """The weights that the next round starts from."""
        self._last_weights = _read_weights(path)


class _Task:
    """What a posterior is fitted to in one round, see `alframe.uncertainty.base.Task`."""

    def __init__(
        self,
        learner: Learner,
        training: Examples,
        validation: Examples,
        round: int,
        stored: list[dict[str, Tensor]] | None = None,
    ) -> None:
        self.learner, self.examples, self.held_out, self.round = learner, training, validation, round
        self.stored = stored  # weights of the trained networks, member 0 first: then nothing is trained
        self.reports: list[FitReport] = []

    def train(self) -> nn.Module:
        return self._train(0)

    def train_members(self, members: int, method: Method) -> list[nn.Module]:
        networks = [self._network(member) for member in range(members)]
        if self.stored is not None:
            return networks
        if not self._together(networks[0], method):
            return [self._train(member, network) for member, network in enumerate(networks)]
        if len(self.examples):
            self.reports += self.learner.trainer.fit_together(
                networks, streams=[self._stream(member) for member in range(members)], **self._data
            )
        return networks

    def train_cycles(self, cycles: int) -> list[nn.Module]:
        if self.stored is not None:
            return [self._network(member) for member in reversed(range(cycles))]  # stored with the last one first
        network = self._network(0)
        copies: list[nn.Module] = []
        self._train(0, network, cycles=cycles, at_cycle_end=lambda: copies.append(deepcopy(network).eval()))
        return copies or [deepcopy(network) for _ in range(cycles)]

    def training(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x, labels) for x, _, labels in self._batches(self.examples))

    def validation(self) -> Iterator[tuple[Tensor, View, Tensor]]:
        return self._batches(self.held_out)

    def _batches(self, examples: Examples) -> Iterator[tuple[Tensor, View, Tensor]]:
        labels, start = examples.truth.to(self.learner.device), 0
        for x, view in self.learner.batches(POOL, examples.rows):
            yield x, view, labels[start : start + len(x)]
            start += len(x)

    @property
    def _data(self) -> dict[str, Any]:
        """What every fit of this round is given."""
        learner = self.learner
        return {
            "pixels": learner.pixels[POOL],
            "examples": self.examples,
            "n_classes": learner.n_classes,
            "prepare": learner.prepare,
            "augment": learner.augment,
            "description": f"round {self.round}: training" if learner.show_progress else "",
        }

    def _stream(self, member: int) -> Stream:
        return lambda purpose: generator(self.learner.seed, self.round, f"{purpose}/{member}")

    def _network(self, member: int) -> nn.Module:
        """Untrained, or with the weights of the last round, or trained already."""
        learner = self.learner
        with scoped(self._stream(member)("init")):
            network = learner.build_network(learner.shape, learner.n_classes).to(learner.device)
        if self.stored is not None:
            network.load_state_dict(self.stored[member])
        elif learner.trainer.warm_start and learner._last_weights is not None:
            network.load_state_dict(learner._last_weights[member])
        return network.eval()

    def _train(self, member: int, network: nn.Module | None = None, **options: Any) -> nn.Module:
        network = network or self._network(member)
        if len(self.examples) and self.stored is None:
            report = self.learner.trainer.fit(
                network,
                stream=self._stream(member),
                validation=self.held_out if len(self.held_out) else None,
                **self._data,
                **options,
            )
            self.reports.append(report)
        return network

    def _together(self, network: nn.Module, method: Method) -> bool:
        """Whether members train in the same steps. The rule: on CUDA, without convolutions, where validation chooses nothing.

        On a CPU stacked convolutions are half as fast as one after another, and heads about as fast (`scripts/benchmark_training.py --ensemble`).
        """
        if self.learner.trainer.needs_validation:
            return False
        convolutional = any(isinstance(layer, _ConvNd) for layer in network.modules())
        return method == "together" or (method == "auto" and self.learner.device.type == "cuda" and not convolutional)


def _read_weights(path: Path) -> list[dict[str, Tensor]]:
    """The state dict of each network in a file of `Learner.save`, member 0 first."""
    try:
        tensors = load_file(path)
        members = sorted({int(key.split(".", 1)[0]) for key in tensors})
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunFolderError(
            f"Expected the last round's weights in {path}, got: {error}; start again with run.overwrite=true."
        ) from error
    return [
        {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{member}.")}
        for member in members
    ]


def fixed_views(augment: object, n: int) -> list[FixedView]:
    """`n` transformations that are the same in every run. Raises ConfigError."""
    if n == 0:
        return []
    if not isinstance(augment, FixedAugment):
        found = "none" if augment is None else type(augment).__name__
        raise ConfigError(
            f"Expected an augmentation with draw() and apply() for uncertainty=tta, got {found}; "
            "set dataset.augmentation, or use another uncertainty."
        )
    return [FixedView(augment, draw) for draw in augment.draw(n, generator(0, 0, "views"))]
