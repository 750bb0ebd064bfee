"""Checks on the data before a run: what its provenance records, and what the user is warned about."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from alframe.dataset.near_duplicates import duplicates_of
from alframe.dataset.normal import guessed
from alframe.experiment import Experiment
from alframe.images import Data

FEW_VALIDATION = 50
"""Images. The standard error of an accuracy on n images is up to 50 / sqrt(n) percentage points."""


def inspect_data(experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """What the provenance records about the data, and one warning per problem, before the run starts."""
    at_start = experiment.data.at_start
    found = duplicates_of(experiment.data, experiment.resources.cache)  # includes photos that arrived later
    data = {
        "dataset": experiment.data.name,
        "classes": list(experiment.data.pool.classes),
        "normal": None if experiment.data.normal is None else experiment.data.named(experiment.data.normal),
        "n_pool": len(experiment.data.pool),
        "n_test": len(experiment.data.test),
        "data_hash": experiment.data_hash,
        "pool_hash": at_start.pool.content_hash,
        "test_hash": experiment.data.test.content_hash,
        "near_duplicates": None if found is None else asdict(found),
        **({"grows": True} if experiment.data.grown else {}),
    }
    shared = [str(found)] if found is not None and found.exact + found.near else []
    if found is None and (n := experiment.data.n_shared):
        shared = [f"{n} test samples are also in the pool (identical features); test metrics will be optimistic."]
    return data, [*shared, *_few_validation_images(experiment), *_few_test_images(experiment)]


def as_begun(data: Data, provenance: Mapping[str, Any]) -> Data:
    """The data with the normal classes that a begun run recorded; before they were recorded, class 1 of two was the defect."""
    if "normal" not in provenance and data.pool.n_classes == 2 and data.normal == (0,):
        return data
    return data.with_normal(provenance.get("normal"))


def which_is_the_defect(data: Data) -> list[str]:
    """A warning: of two classes one counts as the defect even if the normal one is unknown."""
    if data.normal is not None or data.pool.n_classes != 2 or guessed(data.pool.classes) == (0,):
        return []
    first, second = data.pool.classes
    return [
        f"{second} counts as the defect in AUROC, cost and the like, and {first} as normal; if {second} is the normal class, start a "
        f"new run with 'dataset.normal={second}'."
    ]


def _few_test_images(experiment: Experiment) -> list[str]:
    """Photos from a production line come with few labels, and often with none."""
    if n := len(experiment.data.test):
        few = f"only {n} test images, so accuracy is uncertain by about {50 / math.sqrt(n):.0f} points; start with more labelled photos in test/<class>."
        return [few] if experiment.data.grown and n < FEW_VALIDATION else []
    if experiment.budget.validation:
        return ["no test images: metrics are computed on the validation images, which people label during the run."]
    return [
        "no test images, so nothing is measured; set budget.validation=0.2 so that people label random images for validation, or put "
        "labelled photos into test/<class> and start a new run."
    ]


def _few_validation_images(experiment: Experiment) -> list[str]:
    """Rules that use the accuracy on a handful of images decide by chance."""
    rules = {
        **{f"trainer.{name}": True for name in experiment.trainer.validation_rules},
        "budget.stop_at": experiment.budget.stop_at is not None,
        "budget.plateau": experiment.budget.plateau is not None,
    }
    used = [name for name, is_used in rules.items() if is_used]
    n = experiment.budget.split(experiment.budget.initial_size(len(experiment.data.pool)), initial=True)[1]
    if not used or not 0 < n < FEW_VALIDATION:
        return []
    return [
        f"{' and '.join(used)} start{'s' * (len(used) == 1)} with only {n} validation images, so accuracy is uncertain by "
        f"about {50 / math.sqrt(n):.0f} points; raise budget.validation or budget.initial."
    ]
