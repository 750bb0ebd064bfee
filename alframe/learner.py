"""The network side of the loop: fit the posterior to the labelled images, and predict any images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from alframe.clock import Clock
from alframe.console import progress
from alframe.dataset.cache import default_cache
from alframe.engine.bayes_linear import LinearPosterior
from alframe.errors import ConfigError, RunFolderError, TrainingError
from alframe.images import Data, FixedAugment, FixedAugmentation, ImageSet
from alframe.model.base import Build, Model, Pools
from alframe.model.build import model_of
from alframe.model.evidence import AT_ONCE, evidence_maps
from alframe.model.fixed import Unchanging
from alframe.pixels import Normalizer, Pixels
from alframe.record.files import replacing
from alframe.rng import generator, scoped
from alframe.trainer.base import Cycles, FitReport, Fitter, Lesson, Stream
from alframe.types import Examples, Prediction
from alframe.uncertainty.base import Augmented, Method, Posterior, Uncertainty
from alframe.uncertainty.shifted import Shifted
from alframe.uncertainty.tempered import Tempered

SHARES_FROM = 1000  # pool images from which the shares that a posterior predicts are estimated
POOL, TEST, TARGET = "pool", "test", "target"


@dataclass(frozen=True)
class Resources:
    """Computing resources of a run. They do not change results, up to rounding between devices and thread counts.

    `cache`: where decoded images and features are kept. `batch_size`: images per batch of an inference pass. `max_bytes`:
    extra memory that a strategy may use. `resident_bytes`: image sets up to this size are kept on the device.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Path = field(default_factory=default_cache)
    batch_size: int = 256
    max_bytes: int = 1 << 30
    resident_bytes: int = 4 << 30
    show_progress: bool = False
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class Sets:
    """The image sets of a learner: pool and test images of `data`, and an optional unlabelled `target` set.

    If the data are features, `augmented` holds "pool", "test" and "target" under each of the `uncertainty.n_augmented`
    fixed transformations. Images are transformed on the fly instead. `images` are then those of the pool itself.
    """

    data: Data
    target: ImageSet | None = None
    augmented: Mapping[str, Sequence[ImageSet]] = field(default_factory=dict)
    images: ImageSet | None = None


@contextmanager
def cpu_threads(n: int | None) -> Iterator[None]:
    """Meanwhile torch computes with `n` threads, on whose number results depend; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Learner:
    """Owns what is on the device: images, networks, posterior. Raises ConfigError if fixed transformations are impossible."""

    def __init__(
        self,
        sets: Sets,
        model: Model | Build,
        trainer: Fitter,
        uncertainty: Uncertainty,
        *,
        seed: int = 0,
        resources: Resources | None = None,
    ) -> None:
        resources = resources or Resources()
        data, clock, n_fixed = sets.data, resources.clock, uncertainty.n_augmented
        self.resources, self.device, self.seed, self.round = resources, resources.device, seed, 0
        self.model, self.trainer, self.uncertainty = model_of(model), trainer, uncertainty
        self.n_classes, self.shape = data.pool.n_classes, data.pool.shape
        share = resources.resident_bytes // (1 + n_fixed) if sets.augmented else resources.resident_bytes

        def pixels(images: ImageSet) -> Pixels:
            return Pixels(images.pixels, self.device, share, clock)

        named = ((POOL, data.pool), (TEST, data.test), (TARGET, sets.target))
        self.pixels = {name: pixels(images) for name, images in named if images is not None}
        self.augmented = {name: [pixels(images) for images in of] for name, of in sets.augmented.items()}
        fixed = [] if sets.augmented else fixed_augmentations(data.augment, n_fixed)
        self.fixed_augmentations = [clock.preparing("augment", one) for one in fixed]
        self.augment = None if data.augment is None else clock.preparing("augment", data.augment)
        self.normalizer = Normalizer(data.at_start.pool.pixels, self.device, data.normalization)
        self.prepare = clock.preparing("prepare", self.normalizer)
        self.posterior: Posterior | None = None
        self._last_weights: list[dict[str, Tensor]] | None = None
        self._data, self._images = data, sets.images or data.pool

    @cached_property
    def unchanging(self) -> Unchanging:
        """What images are compared by beside the networks; of a model on features those that it works on."""
        own = (self.pixels[POOL], self.normalizer) if len(self.shape) == 1 else None
        resources = self.resources
        return Unchanging(self._data, self._images, own, resources.cache, self.device, resources.max_bytes)

    def fit(self, training: Examples, validation: Examples, round: int) -> dict[str, float]:
        """Fit every network of the posterior; returns `train/loss`, the mean over the networks, and the posterior's numbers.

        Without any labels the networks keep their initial weights.
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
        """Rebuild the posterior of `round` from the weights that `save` wrote.

        What the file lacks (curvature, masks, temperature) is recomputed from the same images and streams. Raises
        `RunFolderError` for a file that is damaged or belongs to other networks.
        """
        try:
            self.posterior = self._posterior(_Task(self, training, validation, round, _read_weights(path)))
        except (IndexError, RuntimeError) as error:  # a missing member or layer
            raise RunFolderError(
                f"Expected the weights of this run's networks in {path}, got: {str(error).splitlines()[0]}; "
                "delete that file to retrain the round."
            ) from error

    def _posterior(self, task: "_Task") -> Posterior:
        self.round = task.round
        posterior = self.uncertainty.fit(task, generator(self.seed, task.round, "posterior"))
        if self.uncertainty.temperature:
            posterior = Tempered.fit(posterior, task.validation())
        if not self.trainer.matches_pool or not len(task.examples):
            return posterior
        counts = task.examples.drawn_counts(self.n_classes) + task.held_out.drawn_counts(self.n_classes)
        stream = generator(self.seed, task.round, "shares")
        some = torch.randperm(len(self.pixels[POOL]), generator=stream)[:SHARES_FROM].sort().values
        return Shifted.fit(posterior, self.batches(POOL, some), counts)

    def predictions(
        self, which: str, rows: Tensor, description: str = "", posterior: Posterior | None = None
    ) -> Iterator[Prediction]:
        """A `Prediction` per batch of `rows` of the pool, test or target set, in order, under the evaluation transform.

        By `posterior`; None: the one that strategies see.
        """
        posterior = posterior or self.fitted.for_queries
        enabled = self.resources.show_progress and bool(description)
        n_batches = math.ceil(len(rows) / self.resources.batch_size)
        for x, augmented in progress(
            self.batches(which, rows), f"round {self.round}: {description}", n_batches, enabled
        ):
            with torch.no_grad():
                prediction = posterior.predict(x, augmented)
            yield prediction

    def features(self, which: str, rows: Tensor) -> Iterator[Tensor]:
        """The features of a `Prediction`, float32 [b, d], per batch of `rows`: one deterministic pass for any posterior."""
        for x, _ in self.batches(which, rows):
            with torch.no_grad():
                features = self.fitted.networks[0].embed(x).float()  # type: ignore[operator]
            yield features

    def batches(self, which: str, rows: Tensor) -> Iterator[tuple[Tensor, Augmented]]:
        """Normalised batches of `rows` of the pool, test or target set, each with the function that augments it."""
        split = rows.split(self.resources.batch_size) if len(rows) else ()
        for raw, batch in zip(self.pixels[which].stream(split), split, strict=True):
            yield self.prepare(raw), partial(self._augmented, which, batch, raw)

    def _augmented(self, which: str, rows: Tensor, raw: Tensor, j: int) -> Tensor:
        if which in self.augmented:
            return self.prepare(self.augmented[which][j].take(rows))
        return self.prepare(self.fixed_augmentations[j](raw))

    def evidence(self, rows: Int[Tensor, " q"], classes: Int[Tensor, " q"]) -> Float[Tensor, "q h w"] | None:
        """Where in pool images the evidence for their `classes` is (`alframe.model.pooled`), on the CPU; None if it has no place."""
        if self.model.on_features and self._pools is None:
            return None
        found = []
        for some, of in zip(rows.split(AT_ONCE), classes.split(AT_ONCE), strict=True):
            maps = evidence_maps(self.fitted.networks, self._raw(some), self.normalizer, self._pools, of)
            if maps is None:
                return None
            found.append(maps)
        return torch.cat(found)

    @cached_property
    def _pools(self) -> Pools | None:
        return self.model.pools(self.device) if self.model.on_features else None

    def _raw(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._images.pixels[rows.numpy()]).to(self.device)

    def mean_log_probs(self, which: str, rows: Tensor, description: str = "") -> Tensor:
        """Log of the mean probabilities of `rows`, float32 [len(rows), c] on the CPU. Raises `TrainingError` for NaN."""
        batches = [
            prediction.mean_log_probs.cpu() for prediction in self.predictions(which, rows, description, self.fitted)
        ]
        log_probs = torch.cat(batches) if batches else torch.empty(0, self.n_classes)
        if torch.isnan(log_probs).any():
            bad = int(torch.isnan(log_probs).any(dim=1).nonzero()[0])
            steps = "lower trainer.lr, set trainer.gradient_clip=1.0, or use trainer.precision=fp32"
            advice = "check the features" if self.trainer.linear_only else steps
            raise TrainingError(
                f"Expected finite predictions, got NaN for row {int(rows[bad])} of the {which} images; {advice}."
            )
        return log_probs

    @property
    def fitted(self) -> Posterior:
        assert self.posterior is not None, "the loop fits before it predicts"
        return self.posterior

    def save(self, path: Path) -> None:
        """Save the weights of every network to one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for member, network in enumerate(self.fitted.networks):
            tensors |= {
                f"{member}.{key}": value.detach().cpu().contiguous() for key, value in network.state_dict().items()
            }
        with replacing(path) as temporary:
            save_file(tensors, temporary)

    def load_warm_start(self, path: Path) -> None:
        """Load the weights that the next round starts from."""
        self._last_weights = _read_weights(path)


class _Task:
    """The training task of a posterior in one round, see `alframe.uncertainty.base.Task`."""

    def __init__(
        self,
        learner: Learner,
        training: Examples,
        validation: Examples,
        round: int,
        stored: list[dict[str, Tensor]] | None = None,
    ) -> None:
        self.learner, self.examples, self.held_out, self.round = learner, training, validation, round
        self.stored = stored  # weights of trained networks, member 0 first; if set, nothing is trained
        self.reports: list[FitReport] = []

    def train(self) -> nn.Module:
        return self._train(0)

    def train_members(self, members: int, method: Method) -> list[nn.Module]:
        networks = [self._network(member) for member in range(members)]
        if self.stored is not None:
            return networks
        lesson = replace(self._lesson, resampled=True)
        if not self._together(networks[0], method):
            return [self._train(member, network, lesson=lesson) for member, network in enumerate(networks)]
        if len(self.examples):
            streams = [self._stream(member) for member in range(members)]
            self.reports += self.learner.trainer.fit_together(networks, lesson, streams)
        return networks

    def train_cycles(self, cycles: int) -> list[nn.Module]:
        if self.stored is not None:
            return [self._network(member) for member in reversed(range(cycles))]  # stored with the last one first
        network = self._network(0)
        copies: list[nn.Module] = []
        self._train(0, network, Cycles(cycles, lambda: copies.append(deepcopy(network).eval())))
        return copies or [deepcopy(network) for _ in range(cycles)]

    def weight_posterior(self, network: nn.Module) -> LinearPosterior | None:
        if self.reports or not len(self.examples):
            return self.reports[-1].posterior if self.reports else None
        return self.learner.trainer.posterior(network, self._lesson, self._stream(0))

    def training(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x, labels) for x, _, labels in self._batches(self.examples))

    def validation(self) -> Iterator[tuple[Tensor, Augmented, Tensor]]:
        return self._batches(self.held_out)

    def _batches(self, examples: Examples) -> Iterator[tuple[Tensor, Augmented, Tensor]]:
        labels, start = examples.truth.to(self.learner.device), 0
        for x, augmented in self.learner.batches(POOL, examples.rows):
            yield x, augmented, labels[start : start + len(x)]
            start += len(x)

    @property
    def _lesson(self) -> Lesson:
        """The training data of every fit in this round."""
        learner = self.learner
        return Lesson(
            learner.pixels[POOL],
            self.examples,
            learner.n_classes,
            learner.prepare,
            learner.augment,
            self.held_out if len(self.held_out) else None,
            f"round {self.round}: training" if learner.resources.show_progress else "",
        )

    def _stream(self, member: int) -> Stream:
        return lambda purpose: generator(self.learner.seed, self.round, f"{purpose}/{member}")

    def _network(self, member: int) -> nn.Module:
        """A network with initial weights, the weights of the last round, or stored trained weights."""
        learner = self.learner
        with scoped(self._stream(member)("init")):
            network = learner.model(learner.shape, learner.n_classes).to(learner.device)
        if self.stored is not None:
            network.load_state_dict(self.stored[member])
        elif learner.trainer.warm_start and learner._last_weights is not None:
            network.load_state_dict(learner._last_weights[member])
        elif len(self.examples):
            learner.trainer.begin(network, self.examples, learner.n_classes)
        return network.eval()

    def _train(
        self,
        member: int,
        network: nn.Module | None = None,
        cycles: Cycles | None = None,
        lesson: Lesson | None = None,
    ) -> nn.Module:
        network, lesson = network or self._network(member), lesson or self._lesson
        if len(self.examples) and self.stored is None:
            self.reports.append(self.learner.trainer.fit(network, lesson, self._stream(member), cycles))
        return network

    def _together(self, network: nn.Module, method: Method) -> bool:
        """Whether members train in the same steps. The rule: on CUDA, without convolutions, if validation decides nothing.

        On a CPU stacked convolutions run at half the speed of separate ones, and heads at about the same speed
        (`scripts/benchmark_training.py --ensemble`).
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
            f"Expected the last round's weights in {path}, got: {error}; start over with run.overwrite=true."
        ) from error
    return [
        {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{member}.")}
        for member in members
    ]


def fixed_augmentations(augment: object, n: int) -> list[FixedAugmentation]:
    """`n` transformations, the same in every run. Raises ConfigError if `augment` cannot be fixed."""
    if n == 0:
        return []
    if not isinstance(augment, FixedAugment):
        found = "none" if augment is None else type(augment).__name__
        raise ConfigError(
            f"Expected an augmentation with draw() and apply() for uncertainty=tta, got {found}; "
            "set dataset.augmentation, or use another uncertainty."
        )
    return [FixedAugmentation(augment, draw) for draw in augment.draw(n, generator(0, 0, "views"))]
