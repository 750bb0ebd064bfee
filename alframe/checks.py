"""What is looked at once before a run's first round: what it should be told, and what its provenance says of the data."""

import math
from dataclasses import asdict
from typing import Any

from alframe.duplicates import Duplicates, duplicates_of
from alframe.experiment import Experiment

FEW_VALIDATION = 50
"""Images. Their accuracy is known to 50 / sqrt(n) points (one standard error at an accuracy of a half)."""


def look(e: Experiment) -> tuple[dict[str, Any], list[str]]:
    """For `provenance.json` what the data are; and in a line each what a person should know before the run begins."""
    begun = e.data.begun
    found = duplicates_of(e.data, e.cache)  # those that came later too
    data = {
        "dataset": e.data.name,
        "classes": list(e.data.pool.classes),
        "n_pool": len(e.data.pool),
        "n_test": len(e.data.test),
        "data_hash": e.data_hash,
        "pool_hash": begun.pool.content_hash,
        "test_hash": e.data.test.content_hash,
        "near_duplicates": None if found is None else asdict(found),
        **({"grows": True} if e.data.grown else {}),
    }
    return data, [*_shared(e, found), *_few_validation_images(e), *_few_test_images(e)]


def _few_test_images(e: Experiment) -> list[str]:
    """Photos of a line come with few labels, and often without any."""
    if n := len(e.data.test):
        few = f"{n} test images, whose accuracy is known to about {50 / math.sqrt(n):.0f} points; begin with more labelled photos in test/<class>."
        return [few] if e.data.grown and n < FEW_VALIDATION else []
    if e.budget.validation:
        return ["no test images: the figures are those of the validation images, which people label as they come."]
    return [
        "no test images, so nothing is measured; set budget.validation=0.2, which has people label random images for that, or put "
        "labelled photos into test/<class> and begin a new run."
    ]


def _shared(e: Experiment, found: Duplicates | None) -> list[str]:
    if found is not None:
        return [str(found)] if found.exact + found.near else []
    twins = e.data.n_shared
    return [f"{twins} test images are in the pool too, feature by feature; test figures will flatter."] if twins else []


def _few_validation_images(e: Experiment) -> list[str]:
    """Rules that decide on the accuracy of a handful of images decide by chance."""
    rules = {
        "trainer.early_stop": e.trainer.early_stop is not None,
        "trainer.best_checkpoint": e.trainer.best_checkpoint,
        "budget.target": e.budget.target is not None,
        "budget.plateau": e.budget.plateau is not None,
    }
    used = [name for name, is_used in rules.items() if is_used]
    n = e.budget.split(e.budget.initial_size(len(e.data.pool)), initial=True)[1]
    if not used or not 0 < n < FEW_VALIDATION:
        return []
    return [
        f"{' and '.join(used)} decide{'s' * (len(used) == 1)} on {n} validation images at first, whose accuracy is known to "
        f"about {50 / math.sqrt(n):.0f} points; raise budget.validation or budget.initial."
    ]
