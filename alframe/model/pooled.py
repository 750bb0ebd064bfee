"""What a network pools over the image, from which follows where the evidence for a class is: exactly, for an affine head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from alframe.model.embedder import Embedder

Head = Callable[[Tensor], Tensor]


def unchanged(features: Tensor) -> Tensor:
    return features


@dataclass(frozen=True)
class Pooled:
    """Features [b, d] before they are pooled: `maps` [b, d_i, h_i, w_i], each pooled over its positions as `how` says, side by
    side, and then `scaled`, which acts on each feature alone and is affine.
    """

    maps: tuple[Tensor, ...]
    how: tuple[Literal["mean", "max"], ...]
    scaled: Callable[[Tensor], Tensor] = unchanged

    def pooled(self) -> Float[Tensor, "b d"]:
        """The pooled maps, not scaled."""
        pairs = zip(self.maps, self.how, strict=True)
        return torch.cat([one.mean((2, 3)) if how == "mean" else one.amax((2, 3)) for one, how in pairs], dim=1)

    def features(self) -> Float[Tensor, "b d"]:
        """What the head reads."""
        return self.scaled(self.pooled())

    def then(self, scaled: Callable[[Tensor], Tensor]) -> "Pooled":
        """The same with `scaled` after what is done already."""
        return replace(self, scaled=lambda pooled: scaled(self.scaled(pooled)))

    def evidence(self, head: Head, classes: Int[Tensor, " b"]) -> Float[Tensor, "b h w"]:
        """For each image the map whose mean is the logit of its class less its bias, both less their means over the classes.

        `head` is affine in the features. At a position, a feature pooled by its mean adds its weight times its value there;
        one pooled by its maximum adds its whole share at the first position that has it. Maps of several sizes are brought to
        the size of the largest, each with its mean kept. Softmax does not see what all logits have in common: hence less
        the means.
        Source: class activation maps, Zhou et al. 2016, arXiv:1512.04150. Differs: maximum pooling, several layers, the mean.
        """
        features = self.features()
        n, d = features.shape
        bias = head(features.new_zeros(1, d))
        weights = torch.cat([head(unit) - bias for unit in torch.eye(d).to(features).split(256)])
        weights = (weights - weights.mean(1, keepdim=True)).T[classes]
        slopes = self.scaled(torch.ones_like(features[:1])) - self.scaled(torch.zeros_like(features[:1]))
        size = max((one.shape[2:] for one in self.maps), key=lambda shape: shape[0] * shape[1])
        total, first = features.new_zeros(n, *size), 0
        for maps, how in zip(self.maps, self.how, strict=True):
            some = slice(first, first + maps.shape[1])
            shares, first = weights[:, some] * features[:, some], some.stop
            if how == "mean":
                found = torch.einsum("bc,bchw->bhw", weights[:, some] * slopes[:, some], maps)
                found += (shares.sum(1) - found.mean((1, 2)))[:, None, None]
            else:
                places = maps.flatten(2).argmax(2)
                found = shares.new_zeros(n, maps[0, 0].numel()).scatter_add_(1, places, shares * maps[0, 0].numel())
                found = found.view(n, *maps.shape[2:])
            if found.shape[1:] != size:
                fitted = F.interpolate(found[:, None], size=size, mode="bilinear")[:, 0]
                found = fitted + (found.mean((1, 2)) - fitted.mean((1, 2)))[:, None, None]
            total += found
        return total


@dataclass(frozen=True)
class Averaged:
    """Features that are the mean over `views` of an image; `undo` brings the map of each to the image as it is."""

    views: tuple[Pooled, ...]
    undo: tuple[Callable[[Tensor], Tensor], ...]

    def then(self, scaled: Callable[[Tensor], Tensor]) -> "Averaged":
        """The same with the affine `scaled` after what is done already."""
        return replace(self, views=tuple(view.then(scaled) for view in self.views))

    def evidence(self, head: Head, classes: Int[Tensor, " b"]) -> Float[Tensor, "b h w"]:
        """As `Pooled.evidence`: the logit of the mean is the mean of the logits."""
        found = [undo(view.evidence(head, classes)) for view, undo in zip(self.views, self.undo, strict=True)]
        return torch.stack(found).mean(dim=0)


def averaged_by(embedder: Embedder, pixels: Tensor, ends: Sequence[nn.Module] = ()) -> Averaged | None:
    """What the trunk of `embedder` pools of each view, by `pooled_by`; None for features that are the largest over tiles."""
    if embedder.tiles != (1, 1):
        return None
    views = [pooled_by(embedder.trunk, x, ends) for x in embedder.inputs(pixels)]
    known = tuple(view for view in views if view is not None)
    return Averaged(known, tuple(view.undo for view in embedder.views)) if len(known) == len(views) else None


def pooled_by(trunk: nn.Module, x: Tensor, ends: Sequence[nn.Module] = ()) -> Pooled | None:
    """What `trunk` pools on its way from x [b, ...] to features, watched in one pass; None unless that is exactly it.

    Features are the mean over the last map that any module gives, followed by mean and maximum over the output of each of
    `ends`.
    """
    last: list[Tensor] = []
    marked: list[Tensor] = []

    def watch(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            if any(module is end for end in ends):
                marked.append(output)
            if output.shape[2] * output.shape[3] > 1 or not last:
                last[:] = [output]

    handles = [module.register_forward_hook(watch) for module in trunk.modules()]
    try:
        features = trunk(x)
    finally:
        for handle in handles:
            handle.remove()
    maps = (*last, *(one for one in marked for _ in range(2)))
    found = Pooled(maps, ("mean", *(("mean", "max") * len(marked)))[: len(maps)])  # type: ignore[arg-type]
    if not maps or (pooled := found.pooled()).shape != features.shape:
        return None
    apart, largest = (pooled - features).detach().abs().max(), features.detach().abs().max()
    return found if bool(apart <= 1e-3 * largest + 1e-6) else None
