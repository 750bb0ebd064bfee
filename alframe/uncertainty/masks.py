"""Dropout masks that stay the same for every image of a round."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from alframe.errors import ConfigError
from alframe.rng import generator


def is_stochastic(module: nn.Module) -> bool:
    """Whether `module` is a dropout layer that drops anything."""
    return isinstance(module, _DropoutNd) and module.p > 0


def stochastic_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The dropout layers of `network` with a rate above 0, by path.

    Raises ConfigError if there is none (a check that costs nothing before training), or one of no known kind.
    """
    layers = {name: module for name, module in network.named_modules() if is_stochastic(module)}
    if not layers:
        raise ConfigError(
            f"Expected a network with dropout for uncertainty=mc_dropout, got {type(network).__name__} with no active "
            "dropout layer: the posterior would have no spread; set model.dropout above 0, or use uncertainty=point or "
            "uncertainty=ensemble."
        )
    for name, module in layers.items():
        if not isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d) or module.p >= 1:
            raise ConfigError(
                f"Expected Dropout, Dropout1d, Dropout2d or Dropout3d with a rate below 1 for uncertainty=mc_dropout, "
                f"got {module} at '{name}'; replace that layer, or use uncertainty=ensemble."
            )
    return layers


@dataclass(frozen=True)
class Site:
    """One place where a network drops: the path of the layer, and which call of that layer it is within a forward pass."""

    layer: str
    call: int


@dataclass
class Masks:
    """The masks of k draws for every site, made on first use, when the activation's shape is known.

    A mask has the activation's shape without the batch axis ([c, 1, 1] for Dropout2d), and depends on the seed, the site and
    that shape alone. `stratified` masks (Latin hypercube sampling, McKay et al. 1979) drop every unit in its share of the draws.
    """

    seed: int
    draws: int
    layers: dict[str, nn.Module]
    stratified: bool = False
    _made: dict[tuple[Site, tuple[int, ...]], Tensor] = field(default_factory=dict)

    def rate(self, site: Site) -> float:
        return float(self.layers[site.layer].p)  # type: ignore[arg-type]

    def get(self, site: Site, activation: torch.Size, batch: int, device: torch.device) -> Bool[Tensor, "k ..."]:
        """True where a draw keeps the value; `activation` is the shape that reaches the site, its first axis the batch."""
        if activation[0] != batch:
            raise ConfigError(
                f"Expected '{site.layer}' to drop from activations whose first axis is the batch ({batch}), got shape "
                f"{tuple(activation)}; a mask could not be the same for every image: "
                "move the batch first, or use uncertainty=ensemble."
            )
        elementwise = isinstance(self.layers[site.layer], nn.Dropout)
        shape = tuple(activation[1:]) if elementwise else (activation[1],) + (1,) * (len(activation) - 2)
        if (site, shape) not in self._made:
            stream = generator(self.seed, site.call, f"mask/{site.layer}")
            uniform = torch.rand((self.draws, *shape), generator=stream)
            if self.stratified:  # a random stratum of [0, 1) for each draw, no two draws of a unit in the same
                strata = torch.rand((self.draws, *shape), generator=stream).argsort(dim=0)
                uniform = (strata + uniform) / self.draws
            self._made[site, shape] = (uniform >= self.rate(site)).to(device)
        return self._made[site, shape]

    @contextmanager
    def applied(self, draw: int | None, batch: int) -> Iterator[Counter[str]]:
        """Run one forward pass under the masks of `draw` (None: no dropout), by hooks; yields the calls of each layer."""
        names = {layer: name for name, layer in self.layers.items()}
        calls: Counter[str] = Counter()

        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            site = Site(names[layer], calls[names[layer]])
            calls[site.layer] += 1
            if draw is None:
                return None
            return drop(output, self.get(site, output.shape, batch, output.device)[draw], self.rate(site))

        handles = [layer.register_forward_hook(hook) for layer in self.layers.values()]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()


def drop(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """Inverted dropout with a given mask: `x` divided by the keeping rate where it is kept, else 0."""
    return x * (keep.to(x.dtype) / (1 - rate))
