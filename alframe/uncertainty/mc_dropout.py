"""Dropout kept on at prediction: each draw is one fixed thinned network."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from alframe.errors import ConfigError, expect
from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior, Task, Uncertainty, expect_spread
from alframe.uncertainty.masks import Masks, stochastic_layers
from alframe.uncertainty.split import Split, split

Method = Literal["auto", "batched", "looped", "full"]
Logits = tuple[Tensor, Tensor, Tensor]
"""Features [b, d], logits without dropout [b, c], logits of the draws [b, k, c]."""


@dataclass(frozen=True)
class MCDropout(Uncertainty):
    """Monte Carlo dropout with k = `draws` fixed masks for each dropout layer, the same for every image of a round.

    The network is cut at its first dropout layers: what comes before runs once, the rest k times. `method` says how:
    `batched` (torch.vmap over draws, in chunks of about `max_bytes`), `looped` (one draw after another), `full` (k whole
    passes, for networks that torch.fx cannot trace) or `auto`: `batched` off the CPU when no convolution is left to do k
    times, else `looped`. All give the same numbers up to rounding. With `stratified`, every unit is dropped in its share of the
    draws instead of on average. Raises ConfigError if `draws` < 2, and from `fit` if the network has no dropout.
    Source: Gal & Ghahramani 2016, arXiv:1506.02142; masks shared by all images as in Kirsch et al. 2019, arXiv:1906.08158.
    """

    draws: int = 20
    method: Method = "auto"
    max_bytes: int = 1 << 28
    stratified: bool = False

    needs_dropout: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect_spread(draws=self.draws)
        expect(
            self.max_bytes > 0,
            f"Expected uncertainty.max_bytes to be above 0, got {self.max_bytes}; "
            "give the bytes that one chunk of draws may take.",
        )

    @property
    def n_draws(self) -> int:
        return self.draws

    def fit(self, task: Task, generator: torch.Generator) -> "MCDropoutPosterior":
        seed = int(torch.randint(1 << 62, (), generator=generator))
        return self._posterior(task.train(), seed)

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> "MCDropoutPosterior":
        return self._posterior(networks[0], int(state["seed"]))

    def _posterior(self, network: nn.Module, seed: int) -> "MCDropoutPosterior":
        return MCDropoutPosterior(network, self.draws, seed, self.method, self.max_bytes, self.stratified)


class MCDropoutPosterior(Posterior):
    """The network in eval mode under fixed masks. `method` is how it runs, settled at the first batch."""

    def __init__(
        self, network: nn.Module, draws: int, seed: int, method: Method, max_bytes: int, stratified: bool = False
    ) -> None:
        self.networks = [network.eval()]
        self.draws = draws
        self.masks = Masks(seed, draws, stochastic_layers(network), stratified)
        self.method = method
        self.max_bytes = max_bytes
        self._split: Split | None = None
        self._bytes_per_image = 0
        self._settled = False

    @property
    def state(self) -> dict[str, Tensor]:
        """The seed of the masks, int64."""
        return {"seed": torch.tensor(self.masks.seed)}

    @torch.no_grad()
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        if not self._settled:
            self._settle(x[:2].float() if torch.is_autocast_enabled(x.device.type) else x[:2])
        cut = self._split
        features, point_logits, logits = self._full(x, self.draws) if cut is None else self._cut(x, self.draws, cut)
        return Prediction(
            logits.float().log_softmax(dim=-1), features.float(), point_logits.float().log_softmax(dim=-1)
        )

    def _full(self, x: Tensor, draws: int) -> Logits:
        """Whole passes of the network, one without dropout and one for each draw."""
        network = self.networks[0]
        with self.masks.applied(None, len(x)) as calls:
            features = network.embed(x)  # type: ignore[operator]
            point_logits = self.head(features.clone())  # a head may work in place
        if not calls:
            raise ConfigError(
                f"Expected {type(network).__name__} to call its dropout layers in eval mode too, got no call: "
                "the posterior would have no spread; call them as modules, or use uncertainty=ensemble."
            )
        logits = []
        for draw in range(draws):
            with self.masks.applied(draw, len(x)):
                logits.append(self.head(network.embed(x)))  # type: ignore[operator]
        return features, point_logits, torch.stack(logits, dim=1)

    def _cut(self, x: Tensor, draws: int, cut: Split) -> Logits:
        """The trunk once, the rest once without dropout and once for each draw."""
        values = cut.trunk(x)
        features, point_logits, *shapes = cut.plain(*values)
        masks = [self.masks.get(*site, len(x), x.device)[:draws] for site in zip(cut.sites, shapes, strict=True)]
        if self.method == "looped":
            tails = [cut.tail(*values, *(mask[draw] for mask in masks))[0] for draw in range(draws)]
            return features, point_logits, torch.stack(tails, dim=1)
        if torch.is_autocast_enabled(x.device.type):  # vmap does not see autocast; the rest runs in float32
            values = tuple(v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values)
        chunk = max(1, self.max_bytes // max(1, len(x) * self._bytes_per_image))
        in_dims = (*[None] * len(values), *[0] * len(masks))
        return features, point_logits, torch.vmap(cut.tail, in_dims, out_dims=1, chunk_size=chunk)(*values, *masks)[0]

    def _settle(self, x: Tensor) -> None:
        """Cut the network and check the parts against full passes over two images; if they disagree, use full passes.

        For tracing follows one path through the code and forgets side effects (a value changed in place after it was read).
        """
        self._settled = True
        with torch.autocast(x.device.type, enabled=False):
            reference = self._full(x, draws=2)
            trouble = ""
            while self.method != "full":
                trouble = self._trouble(x, reference)
                if not trouble:
                    return
                self.method = "looped" if self.method == "batched" else "full"
        self._split = None
        if trouble:
            warnings.warn(
                f"uncertainty=mc_dropout runs {self.draws} full passes of {type(self.networks[0]).__name__}, which is slow: "
                f"the network cannot be cut at its first dropout layer ({trouble}).",
                stacklevel=3,
            )

    def _trouble(self, x: Tensor, reference: Logits) -> str:
        """Why the current method cannot be used, or ""."""
        try:
            self._split = split(self.networks[0], self.masks)
            sizes = _Sizes(self._split.plain)
            sizes.run(*self._split.trunk(x))
            self._bytes_per_image = 3 * sizes.largest // len(x)  # input, output and workspace of one layer
            if self.method == "auto":
                small = not any(isinstance(layer, _ConvNd) for layer in self._split.tail.modules())
                self.method = "batched" if small and x.device.type != "cpu" else "looped"
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="There is a performance drop")  # vmap would loop over images
                parts = self._cut(x, 2, self._split)
        except ConfigError:
            raise
        except Exception as error:  # a user's network may fail in any way when it is traced or batched
            return f"{type(error).__name__}: {error}".splitlines()[0]
        for part, whole in zip(parts, reference, strict=True):
            atol = 0.02 * float(whole.nan_to_num().abs().max()) + 1e-6
            if not torch.allclose(part.float(), whole.float(), rtol=0, atol=atol, equal_nan=True):
                return "its parts do not add up to the whole"
        return ""


class _Sizes(fx.Interpreter):
    """Runs a program and keeps the size in bytes of the largest tensor that it makes."""

    largest = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.largest = max(self.largest, value.nbytes)
        return value
