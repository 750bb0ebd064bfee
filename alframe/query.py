"""The only loop over the pool: summarise every batch, select, check, and map positions to dataset indices."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alframe.errors import StrategyError
from alframe.learner import POOL, Learner
from alframe.profile import Profile
from alframe.strategy.base import Strategy
from alframe.trainer.trainer import Examples
from alframe.types import Selection, Summary, Views


@dataclass(frozen=True)
class Picked:
    """Dataset indices in the order of preference, their scores, and the seconds that the two stages took."""

    indices: list[int]
    scores: list[float]
    score_name: str
    pool_scores: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def query(
    strategy: Strategy,
    learner: Learner,
    candidates: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    training: Examples,
    validation: Examples,
    target: str = POOL,
    target_size: int = 500,
    max_bytes: int = 1 << 30,
    description: str = "",
    profile: Profile | None = None,
) -> Picked:
    """Pick `size` of `candidates` (dataset indices, int64 [n]). ONE pass over the pool, under the evaluation transform.

    `target` names the images (pool, test or target) from which a strategy that asks about a target set gets `target_size`.
    Labelled images of which only a soft target is known are none to a strategy: their class is not.

    Raises `StrategyError`, naming the strategy, when it does not answer with exactly `size` distinct positions in range and
    finite scores, or when a summary holds NaN.
    """
    profile = profile or Profile()
    begin = time.perf_counter()
    with profile.stage("pool"):
        narrowed = strategy.narrow(len(candidates), size, generator)
        looked_at = candidates if narrowed is None else candidates[narrowed]
        views = _views(
            strategy,
            learner,
            looked_at,
            candidates,
            generator,
            training,
            validation,
            target,
            target_size,
            max_bytes,
            description,
        )
    passed = time.perf_counter()
    with profile.stage("select"):
        selection = strategy.select(views, size, generator)
        _check(strategy, selection, size, views.n)
    positions = selection.positions.cpu()
    return Picked(
        indices=looked_at[positions].tolist(),
        scores=[float(score) for score in selection.scores.cpu()],
        score_name=selection.score_name,
        pool_scores=None if selection.pool_scores is None else selection.pool_scores.float().cpu(),
        seconds={"pool_s": passed - begin, "select_s": time.perf_counter() - passed},
    )


def _views(
    strategy: Strategy,
    learner: Learner,
    looked_at: Tensor,
    candidates: Tensor,
    generator: torch.Generator,
    training: Examples,
    validation: Examples,
    target: str,
    target_size: int,
    max_bytes: int,
    description: str,
) -> Views:
    """The pool's summary, and beside it, on the same device, exactly what the strategy says it needs."""
    pool = summarize(strategy, learner, POOL, looked_at, max_bytes, description) if strategy.reads_pool else {}
    device = next((tensor.device for tensor in pool.values()), learner.device)
    needs: dict[str, Any] = {}

    def summary(which: str, rows: Tensor) -> Summary:
        found = summarize(strategy, learner, which, rows, max_bytes)
        return {name: tensor.to(device) for name, tensor in found.items()}

    if "labeled" in strategy.needs:
        known = training.certain
        needs |= {"labeled": summary(POOL, known.rows), "labels": known.labels.to(device)}
    if "held_out" in strategy.needs:
        needs |= {"held_out": summary(POOL, validation.rows), "held_out_labels": validation.labels.to(device)}
    if "target" in strategy.needs:
        rows = candidates if target == POOL else torch.arange(len(learner.pixels[target]))
        rows = rows[torch.randperm(len(rows), generator=generator)[:target_size]].sort().values
        needs["target"] = summary(target, rows)
    if "head" in strategy.needs:
        head = learner.fitted.head
        # Features may lie in host memory: they go through the last layer on the device, and its answer goes where they are.
        needs["head"] = lambda features: head(features.to(learner.device)).to(features.device)
    return Views(n=len(looked_at), pool=pool, n_classes=learner.n_classes, max_bytes=max_bytes, **needs)


def summarize(
    strategy: Strategy, learner: Learner, which: str, rows: Tensor, max_bytes: int, description: str = ""
) -> Summary:
    """The strategy's summary of `rows`, filled batch by batch: on the device while it fits `max_bytes`, else in host memory."""
    if not len(rows):  # no labels yet: an empty summary with the right axes, made from one image of the pool
        one = summarize(strategy, learner, POOL, torch.zeros(1, dtype=torch.int64), max_bytes)
        return {name: tensor[:0] for name, tensor in one.items()}
    whole: Summary = {}
    filled = 0
    for prediction in learner.predictions(which, rows, description):
        part = strategy.summarize(prediction)
        size = len(prediction.features)
        if not whole:
            needed = sum(tensor[0].numel() * tensor.element_size() for tensor in part.values()) * len(rows)
            place = learner.device if needed <= max_bytes else torch.device("cpu")
            whole = {
                name: torch.empty((len(rows), *t.shape[1:]), dtype=t.dtype, device=place) for name, t in part.items()
            }
        for name, tensor in part.items():
            if len(tensor) != size or torch.isnan(tensor).any():
                found = f"{len(tensor)} rows" if len(tensor) != size else "NaN"
                raise StrategyError(
                    f"Expected '{name}' of {type(strategy).__name__}'s summary to hold {size} rows of numbers, got {found} "
                    f"in batch {filled // learner.batch_size} ({which} images); lower trainer.lr if training diverged."
                )
            whole[name][filled : filled + size] = tensor
        filled += size
    return whole


def _check(strategy: Strategy, selection: Selection, size: int, n: int) -> None:
    """The contract that every strategy is held to, in every query of every run."""
    name, positions = type(strategy).__name__, selection.positions
    if positions.dtype != torch.int64 or positions.shape != (size,) or selection.scores.shape != (size,):
        raise StrategyError(
            f"Expected {size} positions (int64) and {size} scores from {name}, got {positions.dtype} {list(positions.shape)} "
            f"and {list(selection.scores.shape)}; mend its select()."
        )
    if selection.pool_scores is not None and selection.pool_scores.shape != (n,):
        raise StrategyError(
            f"Expected {n} pool_scores from {name}, got {list(selection.pool_scores.shape)}; mend its select()."
        )
    outside = positions[(positions < 0) | (positions >= n)]
    if len(outside):
        raise StrategyError(
            f"Expected positions from 0 to {n - 1} from {name}, got {outside[:5].tolist()}; mend its select()."
        )
    values, counts = positions.unique(return_counts=True)
    if (counts > 1).any():
        raise StrategyError(
            f"Expected distinct positions from {name}, got {values[counts > 1][:5].tolist()} repeatedly; mend its select()."
        )
    bad = ~torch.isfinite(selection.scores.float())
    if bad.any():
        raise StrategyError(
            f"Expected finite scores from {name}, got {positions[bad.to(positions.device)][:5].tolist()} with none; mend its select()."
        )
