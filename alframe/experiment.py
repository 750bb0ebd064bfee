"""All that a run is made of, what cannot be combined, and the learner of each of its rounds."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alframe.annotator.base import Annotator, make_annotator
from alframe.budget import Budget
from alframe.consensus import Rules
from alframe.dataset.cache import default_cache
from alframe.dataset.growing import Growing
from alframe.errors import expect
from alframe.images import Data, FixedView, ImageSet
from alframe.learner import POOL, TARGET, TEST, Learner, fixed_views
from alframe.metrics import Costs
from alframe.profile import Profile
from alframe.strategy.base import Schedule
from alframe.trainer.trainer import Trainer
from alframe.uncertainty.base import Uncertainty


@dataclass(frozen=True)
class Experiment:
    """Everything a run is made of, already built. `annotator(labels=..., classes=..., seed=...)` makes the annotator.

    `target` is pool, test, or target, which stands for `target_images`. `photos` is where more images come from between rounds.
    """

    data: Data
    build_network: Callable[[tuple[int, ...], int], nn.Module]
    trainer: Trainer
    uncertainty: Uncertainty
    strategy: Schedule
    annotator: Callable[..., Annotator]
    budget: Budget = field(default_factory=Budget)
    costs: Costs = field(default_factory=Costs)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Path = field(default_factory=default_cache)
    batch_size: int = 256
    max_bytes: int = 1 << 30
    resident_bytes: int = 4 << 30
    target: str = POOL
    target_size: int = 500
    target_images: ImageSet | None = None
    show_progress: bool = False
    profile: Profile = field(default_factory=Profile)
    photos: Growing | None = None

    @property
    def data_hash(self) -> str:
        """SHA-256 of all images that can decide what is asked and measured; of a pool that grows, of those that it began with."""
        content_hash = self.data.begun.content_hash
        if self.target_images is None:
            return content_hash
        return hashlib.sha256(f"{content_hash}{self.target_images.content_hash}".encode()).hexdigest()

    def check(self) -> None:
        """What can be known to be wrong before any image is looked at."""
        check_parts(self.strategy, self.uncertainty, self.trainer, self.budget)
        expect(
            self.target != TEST or len(self.data.test) > 0 or "target" not in self.strategy.needs,
            "Expected test images with query.target=test, got none; use query.target=pool, or put labelled photos into test/<class>.",
        )


def check_parts(strategy: Schedule, uncertainty: Uncertainty, trainer: Trainer, budget: Budget) -> None:
    """Combinations that cannot work. Raises `ConfigError`."""
    expect(
        uncertainty.n_draws >= strategy.min_draws,
        f"Expected an uncertainty with at least {strategy.min_draws} draws for this strategy ({type(strategy).__name__}, as its min_draws "
        f"says: it measures how draws disagree), got {uncertainty.n_draws}; use uncertainty=mc_dropout or uncertainty=ensemble.",
    )
    expect(
        budget.validation > 0 or not trainer.needs_validation,
        "Expected budget.validation > 0 with trainer.early_stop or trainer.best_checkpoint, got 0; try budget.validation=0.2.",
    )
    expect(
        budget.validation > 0 or not uncertainty.temperature,
        "Expected budget.validation > 0 with uncertainty.temperature=true, which is fitted on those images, got 0; try budget.validation=0.2.",
    )
    expect(
        not (uncertainty.together and trainer.needs_validation),
        "Expected no trainer.early_stop and no trainer.best_checkpoint with uncertainty.method=together, "
        "got one; members that train in the same steps cannot stop apart: use uncertainty.method=one_by_one.",
    )
    expect(
        not (uncertainty.restarts and (trainer.needs_validation or trainer.ema)),
        f"Expected no trainer.early_stop, no trainer.ema and no trainer.best_checkpoint with {type(uncertainty).__name__}, which keeps a network "
        "from the end of every cycle, got one; leave them out, or use uncertainty=ensemble.",
    )


def with_annotator(e: Experiment, folder: Path, ledger: list[dict[str, Any]]) -> tuple[Experiment, Annotator, Rules]:
    """The annotator of a run in `folder`, the rules by which its answers become labels, and the experiment with the classes it knows.

    `ledger` are the answers so far, a list that may grow.
    """
    pool = e.data.pool
    known = {"labels": pool.labels, "classes": pool.classes, "seed": e.seed, "data": e.data}
    annotator = make_annotator(e.annotator, **known, folder=folder, ledger=ledger)
    rules = getattr(annotator, "rules", Rules())
    return with_classes(e, rules.classes or pool.classes), annotator, rules


def with_classes(e: Experiment, classes: tuple[str, ...]) -> Experiment:
    """The experiment with `classes`, which begin with the dataset's: people found the others, and the config names them by now."""
    if classes == e.data.pool.classes:
        return e
    expect(
        not e.trainer.warm_start,
        f"Expected trainer.warm_start=false with annotator.new_classes ({', '.join(classes[e.data.pool.n_classes :])}), got true; the last "
        "round's network has no output for them: start again under another run.name.",
    )
    pool, test = (replace(images, classes=classes) for images in (e.data.pool, e.data.test))
    target = None if e.target_images is None else replace(e.target_images, classes=classes)
    return replace(e, data=replace(e.data, pool=pool, test=test), target_images=target)


def network_of(e: Experiment, round: int) -> Any:
    """What builds the networks of a round: a model with a frozen trunk says when that is unfrozen."""
    model: Any = e.build_network
    return model.unfrozen if hasattr(model, "on_features") and not model.on_features(round) else model


def goes_on(e: Experiment, round: int) -> bool:
    """Whether a round trains the network of the one before."""
    return round > 0 and bool(network_of(e, round) == network_of(e, round - 1))


def learner_of(e: Experiment, round: int, last: Learner | None = None) -> Learner:
    """The learner of a round: `last`, unless another network is trained from now on.

    A model with a frozen trunk maps the images to features first, once: what it learns from is those. When it is unfrozen it
    learns from the images, and scales them itself.
    """
    build = network_of(e, round)
    if last is not None and last.build_network == build:
        return last
    prepare = getattr(build, "prepare", None)
    data, target = e.data, e.target_images
    views: dict[str, list[ImageSet]] = {}
    if build != e.build_network:
        data = replace(data, normalization="none")
    elif prepare is not None:

        def features(images: ImageSet, *view: FixedView) -> ImageSet:
            ends = data.grown if images is data.pool else ()
            return _by_arrival(images, ends, lambda some: prepare(some, e.cache, e.device, *view))

        pool = features(data.pool)
        test = features(data.test) if len(data.test) else replace(data.test, pixels=pool.pixels[:0])
        fixed = fixed_views(data.augment, e.uncertainty.n_views)
        for name, images in ((POOL, data.pool), (TEST, data.test), (TARGET, target)):
            if images is not None and len(images) and fixed:
                views[name] = [features(images, view) for view in fixed]
        target = None if target is None else prepare(target, e.cache, e.device)
        data = replace(data, pool=pool, test=test, augment=None)
    learner = Learner(
        data,
        build,
        e.trainer,
        e.uncertainty,
        seed=e.seed,
        device=e.device,
        batch_size=e.batch_size,
        resident_bytes=e.resident_bytes,
        show_progress=e.show_progress,
        target=target,
        views=views,
    )
    e.profile.watch(learner)
    return learner


def _by_arrival(images: ImageSet, ends: tuple[int, ...], prepare: Callable[[ImageSet], ImageSet]) -> ImageSet:
    """`prepare` of the images, of those that came together by themselves: what was computed for a smaller pool is found again."""
    if len(ends) < 2:
        return prepare(images)
    parts = [prepare(images.rows(start, end)).pixels for start, end in pairwise((0, *ends))]
    return replace(images, pixels=np.concatenate(parts))
