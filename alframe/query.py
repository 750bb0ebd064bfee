"""The only loop over the pool: summarise every batch, select, check, and map positions to dataset indices."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alframe.errors import StrategyError
from alframe.images import ImageSet
from alframe.learner import POOL, Learner
from alframe.strategy.base import Strategy
from alframe.types import Labelled, PoolView, Selection, Summary


@dataclass(frozen=True)
class TargetSet:
    """The unlabelled target images of some strategies: at most `size` images of the pool, the test set, or `images`.

    `name` is pool, test or target; target refers to `images`.
    """

    name: str = POOL
    size: int = 500
    images: ImageSet | None = None


@dataclass(frozen=True)
class Picked:
    """Dataset indices in order of preference, their scores, and the seconds of the two stages.

    `sources` names the strategy behind each index, if several share the query.
    """

    indices: list[int]
    scores: list[float]
    score_name: str
    pool_scores: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] | None = None


def query(
    strategy: Strategy,
    learner: Learner,
    candidates: Tensor,
    size: int,
    generator: torch.Generator,
    labelled: Labelled,
    target_set: TargetSet | None = None,
    defects: tuple[int, ...] | None = None,
) -> Picked:
    """Pick `size` of `candidates` (dataset indices, int64 [n]). ONE pass over the pool, under the evaluation transform.

    Images with only a soft label have no class, so strategies do not see them as labelled. `defects`: the numbers of the
    classes that are defects, if anyone said.

    Raises `StrategyError`, naming the strategy, unless it returns exactly `size` distinct positions in range with finite
    scores, or if a summary contains NaN.
    """
    clock = learner.resources.clock
    with clock.stage("pool") as passing:
        subset = strategy.subset(len(candidates), size, generator)
        rows = candidates if subset is None else candidates[subset]
        pool = summarize(strategy, learner, POOL, rows, "pool") if strategy.needs_pool_pass else {}
        device = next((tensor.device for tensor in pool.values()), learner.device)
        needs = _needs(strategy, learner, candidates, generator, labelled, target_set or TargetSet(), device)
        if "fixed" in strategy.needs:
            known = torch.cat([labelled.training.rows, labelled.validation.rows])
            fixed, batch = learner.unchanging, learner.resources.batch_size
            needs |= {"fixed": fixed.features(rows, batch), "fixed_labeled": fixed.features(known, batch)}
        if "patch" in strategy.needs:
            needs["patch_scores"] = learner.unchanging.patch_scores[rows]
        view = PoolView(
            len(rows),
            pool,
            learner.n_classes,
            counts=labelled.counts(learner.n_classes),
            defects=defects,
            max_bytes=learner.resources.max_bytes,
            **needs,
        )
    with clock.stage("select") as selecting:
        selection: object = strategy.select(view, size, generator)
        if not isinstance(selection, Selection):
            name = type(strategy).__name__
            raise StrategyError(f"Expected a Selection from {name}.select, got {type(selection).__name__}; return one.")
        _check(strategy, selection, size, view.n)
    positions = selection.positions.cpu()
    return Picked(
        indices=rows[positions].tolist(),
        scores=[float(score) for score in selection.scores.cpu()],
        score_name=selection.score_name,
        pool_scores=None if selection.pool_scores is None else selection.pool_scores.float().cpu(),
        seconds={"pool_s": passing.seconds, "select_s": selecting.seconds},
        sources=selection.sources,
    )


def _needs(
    strategy: Strategy,
    learner: Learner,
    candidates: Tensor,
    generator: torch.Generator,
    labelled: Labelled,
    target_set: TargetSet,
    device: torch.device,
) -> dict[str, Any]:
    """What the strategy declares in `needs`, on the same device as the pool's summary."""
    needs: dict[str, Any] = {}

    def summary(which: str, rows: Tensor) -> Summary:
        found = summarize(strategy, learner, which, rows)
        return {name: tensor.to(device) for name, tensor in found.items()}

    if "labeled" in strategy.needs:
        known = labelled.training.certain
        needs |= {"labeled": summary(POOL, known.rows), "labels": known.labels.to(device)}
    if "held_out" in strategy.needs:
        held_out = labelled.validation
        needs |= {"held_out": summary(POOL, held_out.rows), "held_out_labels": held_out.labels.to(device)}
    if "target" in strategy.needs:
        rows = candidates if target_set.name == POOL else torch.arange(len(learner.pixels[target_set.name]))
        rows = rows[torch.randperm(len(rows), generator=generator)[: target_set.size]].sort().values
        needs["target"] = summary(target_set.name, rows)
    if "head" in strategy.needs:
        head = learner.fitted.head
        # Features may be in host memory: the last layer runs on the device, and its output returns to where they are.
        needs["head"] = lambda features: head(features.to(learner.device)).to(features.device)
    return needs


def summarize(strategy: Strategy, learner: Learner, which: str, rows: Tensor, description: str = "") -> Summary:
    """The strategy's summary of `rows`, filled batch by batch: on the device if it fits `max_bytes`, else in host memory."""
    resources = learner.resources
    if not len(rows):  # no labels yet: an empty summary with the right axes, derived from one pool image
        one = summarize(strategy, learner, POOL, torch.zeros(1, dtype=torch.int64))
        return {name: tensor[:0] for name, tensor in one.items()}
    whole: Summary = {}
    filled = 0
    for prediction in learner.predictions(which, rows, description):
        part: object = strategy.summarize(prediction)
        if not (isinstance(part, dict) and all(isinstance(tensor, Tensor) and tensor.ndim for tensor in part.values())):
            name = type(strategy).__name__
            raise StrategyError(
                f"Expected tensors by name from {name}.summarize, got {type(part).__name__}; return a dict of them."
            )
        size = len(prediction.features)
        if not whole:
            needed = sum(tensor[0].numel() * tensor.element_size() for tensor in part.values()) * len(rows)
            place = learner.device if needed <= resources.max_bytes else torch.device("cpu")
            whole = {
                name: torch.empty((len(rows), *t.shape[1:]), dtype=t.dtype, device=place) for name, t in part.items()
            }
        for name, tensor in part.items():
            if len(tensor) != size or torch.isnan(tensor).any():
                found = f"{len(tensor)} rows" if len(tensor) != size else "NaN"
                raise StrategyError(
                    f"Expected '{name}' of {type(strategy).__name__}'s summary to contain {size} rows of numbers, got {found} "
                    f"in batch {filled // resources.batch_size} ({which} images); lower trainer.lr if training diverged."
                )
            whole[name][filled : filled + size] = tensor
        filled += size
    return whole


def _check(strategy: Strategy, selection: Selection, size: int, n: int) -> None:
    """The contract of every strategy, checked in every query of every run."""
    name, positions = type(strategy).__name__, selection.positions
    if positions.dtype != torch.int64 or positions.shape != (size,) or selection.scores.shape != (size,):
        raise StrategyError(
            f"Expected {size} positions (int64) and {size} scores from {name}, got {positions.dtype} {list(positions.shape)} "
            f"and {list(selection.scores.shape)}; fix its select()."
        )
    if selection.sources is not None and len(selection.sources) != size:
        raise StrategyError(f"Expected {size} sources from {name}, got {len(selection.sources)}; fix its select().")
    if selection.pool_scores is not None and selection.pool_scores.shape != (n,):
        raise StrategyError(
            f"Expected {n} pool_scores from {name}, got {list(selection.pool_scores.shape)}; fix its select()."
        )
    outside = positions[(positions < 0) | (positions >= n)]
    if len(outside):
        raise StrategyError(
            f"Expected positions from 0 to {n - 1} from {name}, got {outside[:5].tolist()}; fix its select()."
        )
    values, counts = positions.unique(return_counts=True)
    if (counts > 1).any():
        raise StrategyError(
            f"Expected distinct positions from {name}, got {values[counts > 1][:5].tolist()} more than once; fix its select()."
        )
    bad = ~torch.isfinite(selection.scores.float())
    if bad.any():
        raise StrategyError(
            f"Expected finite scores from {name}, got others at positions {positions[bad.to(positions.device)][:5].tolist()}; fix its select()."
        )
