"""What is found out about the data before a run: what its provenance says of them, and what a person should be warned of."""

import math
from dataclasses import asdict
from typing import Any

from alframe.dataset.near_duplicates import Duplicates, duplicates_of
from alframe.experiment import Experiment

FEW_VALIDATION = 50
"""Images. Their accuracy is known to 50 / sqrt(n) points (one standard error at an accuracy of a half)."""


def inspect_data(experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """What the provenance says of the data, and a line for each thing that a person should know before the run starts."""
    at_start = experiment.data.at_start
    found = duplicates_of(experiment.data, experiment.resources.cache)  # those that came later too
    data = {
        "dataset": experiment.data.name,
        "classes": list(experiment.data.pool.classes),
        "n_pool": len(experiment.data.pool),
        "n_test": len(experiment.data.test),
        "data_hash": experiment.data_hash,
        "pool_hash": at_start.pool.content_hash,
        "test_hash": experiment.data.test.content_hash,
        "near_duplicates": None if found is None else asdict(found),
        **({"grows": True} if experiment.data.grown else {}),
    }
    return data, [*_shared(experiment, found), *_few_validation_images(experiment), *_few_test_images(experiment)]


def _few_test_images(experiment: Experiment) -> list[str]:
    """Photos of a line come with few labels, and often without any."""
    if n := len(experiment.data.test):
        few = f"{n} test images, whose accuracy is known to about {50 / math.sqrt(n):.0f} points; begin with more labelled photos in test/<class>."
        return [few] if experiment.data.grown and n < FEW_VALIDATION else []
    if experiment.budget.validation:
        return ["no test images: the figures are those of the validation images, which people label as they come."]
    return [
        "no test images, so nothing is measured; set budget.validation=0.2, which has people label random images for that, or put "
        "labelled photos into test/<class> and begin a new run."
    ]


def _shared(experiment: Experiment, found: Duplicates | None) -> list[str]:
    if found is not None:
        return [str(found)] if found.exact + found.near else []
    twins = experiment.data.n_shared
    return [f"{twins} test images are in the pool too, feature by feature; test figures will flatter."] if twins else []


def _few_validation_images(experiment: Experiment) -> list[str]:
    """Rules that decide on the accuracy of a handful of images decide by chance."""
    rules = {
        "trainer.early_stop": experiment.trainer.early_stop is not None,
        "trainer.best_checkpoint": experiment.trainer.best_checkpoint,
        "budget.stop_at": experiment.budget.stop_at is not None,
        "budget.plateau": experiment.budget.plateau is not None,
    }
    used = [name for name, is_used in rules.items() if is_used]
    n = experiment.budget.split(experiment.budget.initial_size(len(experiment.data.pool)), initial=True)[1]
    if not used or not 0 < n < FEW_VALIDATION:
        return []
    return [
        f"{' and '.join(used)} decide{'s' * (len(used) == 1)} on {n} validation images at first, whose accuracy is known to "
        f"about {50 / math.sqrt(n):.0f} points; raise budget.validation or budget.initial."
    ]
