"""Several strategies share one query."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from alframe.errors import expect
from alframe.strategy.base import Schedule, Strategy, declare_for
from alframe.types import PoolView, Prediction, Selection, Summary


def split(size: int, shares: Sequence[int | float], generator: torch.Generator) -> list[int]:
    """`size` images by `shares`: each share rounded up or down at random, so that its mean over many queries is exact.

    Nothing is drawn for shares that are whole already.
    """
    ends = [size * total / math.fsum(shares) for total in accumulate(shares)]
    if any(abs(end - round(end)) > 1e-9 for end in ends):
        start = float(torch.rand((), generator=generator, dtype=torch.float64))
        ends = [float(math.floor(end + start)) for end in ends[:-1]] + [float(size)]
    return [round(end) - round(before) for before, end in pairwise([0, *ends])]


@dataclass(frozen=True)
class Mix(Strategy):
    """`strategies`, a list or named, share every query by `shares`: each picks from what those before it left.

    Shares are positive and are scaled to a sum of 1; what is no whole image is rounded at random. One pool pass serves all. Each image
    comes with the name of the strategy that picked it (`Selection.sources`), and with that strategy's score. The images of a share of
    `random` are a uniform sample of what the strategies before it left.
    Raises `ConfigError` for shares that are not positive or not one each, and for schedules (put the mix inside).
    """

    strategies: Mapping[str, Schedule] | Sequence[Schedule]
    shares: Sequence[int | float]

    def __post_init__(self) -> None:
        expect(
            len(self.strategies) == len(self.shares) > 0,
            f"Expected one share for each of {len(self.strategies)} strategies, at least one, got {len(self.shares)}; "
            "give as many shares as strategies.",
        )
        expect(
            all(0 < share < math.inf for share in self.shares),
            f"Expected shares above 0, got {list(self.shares)}; leave out a strategy that gets nothing.",
        )
        for one in self._given:
            expect(
                isinstance(one, Strategy),
                f"Expected strategies inside a mix, got {type(one).__name__}; put the mix inside the switch instead.",
            )
        declare_for(self, *self._inner)
        object.__setattr__(self, "needs_pool_pass", any(one.needs_pool_pass for one in self._inner))
        object.__setattr__(self, "needs_network", any(one.needs_network for one in self._inner))

    @property
    def _given(self) -> list[Schedule]:
        return list(self.strategies.values() if isinstance(self.strategies, Mapping) else self.strategies)

    @property
    def _inner(self) -> list[Strategy]:
        return [one for one in self._given if isinstance(one, Strategy)]

    def summarize(self, prediction: Prediction) -> Summary:
        return {
            f"{i}.{name}": tensor
            for i, one in enumerate(self._inner)
            for name, tensor in one.summarize(prediction).items()
        }

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        left = torch.arange(view.n)
        parts: list[Selection] = []
        for i, (one, count) in enumerate(zip(self._inner, split(size, self.shares, generator), strict=True)):
            if count == 0:
                continue
            some = one.subset(len(left), count, generator)
            rows = left if some is None else left[some]
            found = one.select(_view_of(view, i, one, rows), count, generator)
            positions = rows[found.positions.cpu()]
            left = left[~torch.isin(left, positions)]
            parts.append(replace(found, positions=positions, sources=found.sources or (one.name,) * count))
        return Selection(
            torch.cat([part.positions for part in parts]),
            torch.cat([part.scores.cpu().float() for part in parts]),
            self.name,
            sources=tuple(source for part in parts for source in part.sources or ()),
        )


def _view_of(view: PoolView, i: int, one: Strategy, rows: Int[Tensor, " m"]) -> PoolView:
    """What strategy `i` would see of the images at `rows` if it were alone: its own summaries, and nothing that it does not need."""

    def taken(tensor: Tensor) -> Tensor:
        return tensor if len(rows) == view.n else tensor[rows.to(tensor.device)]

    def own(summary: Summary | None) -> Summary:
        prefix = f"{i}."
        return {name.removeprefix(prefix): t for name, t in (summary or {}).items() if name.startswith(prefix)}

    return PoolView(
        len(rows),
        {name: taken(tensor) for name, tensor in own(view.pool).items()},
        view.n_classes,
        labeled=own(view.labeled) if "labeled" in one.needs else None,
        labels=view.labels if "labeled" in one.needs else None,
        target=own(view.target) if "target" in one.needs else None,
        held_out=own(view.held_out) if "held_out" in one.needs else None,
        held_out_labels=view.held_out_labels if "held_out" in one.needs else None,
        head=view.head if "head" in one.needs else None,
        fixed=taken(view.fixed) if "fixed" in one.needs and view.fixed is not None else None,
        fixed_labeled=view.fixed_labeled if "fixed" in one.needs else None,
        patch_scores=taken(view.patch_scores) if "patch" in one.needs and view.patch_scores is not None else None,
        counts=view.counts,
        defects=view.defects,
        max_bytes=view.max_bytes,
    )
