"""Trained networks with their preprocessing: from raw images to the same predictions as in the run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from alframe.errors import AlframeError, DataError
from alframe.handover.spec import Spec, located
from alframe.images import FixedAugment
from alframe.learner import fixed_augmentations
from alframe.model.base import Network
from alframe.model.frozen import Frozen
from alframe.pixels import normalize
from alframe.rng import generator, scoped
from alframe.types import Prediction
from alframe.uncertainty.base import Uncertainty
from alframe.uncertainty.tempered import restore

BATCH = 32  # images per batch: a trunk at 224 pixels takes a gigabyte for eight times as many
HEADER = "alframe"  # key of the description in the file's metadata

Tensors = dict[str, Tensor]
"""`front.<name>`, `network.<member>.<name>` and `posterior.<name>`."""


class Front(nn.Module):
    """Raw images [b, c, h, w] from 0 to 255 to network input: features of the `embedder`, if any, then normalised."""

    def __init__(self, embedder: nn.Module | None, mode: str, mean: Tensor | None, deviation: Tensor | None) -> None:
        super().__init__()
        self.embedder, self.mode = embedder, mode
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        x = images if self.embedder is None else self.embedder(images)
        return normalize(x, self.mean, self.deviation, self.mode)  # type: ignore[arg-type]


class Probabilities(nn.Module):
    """Raw images to probabilities [b, c] in one graph: the mean over the `networks`, with logits divided by `temperature`."""

    def __init__(self, front: Front, networks: list[nn.Module], temperature: float) -> None:
        super().__init__()
        self.front, self.networks, self.temperature = front, nn.ModuleList(networks), temperature

    def forward(self, images: Tensor) -> Tensor:
        x = self.front(images)
        return torch.stack([(net(x) / self.temperature).softmax(dim=-1) for net in self.networks]).mean(dim=0)


class Predictor:
    """Predicts from `spec` and `tensors`. Raises `DataError` if the tensors do not belong to the networks."""

    def __init__(self, spec: Spec, tensors: Tensors, device: torch.device) -> None:
        self.spec, self.device = spec, device
        model, of_model = located(spec.model, (nn.Module, Frozen), "network")
        make: Callable[..., Any] = partial(model.untrained if issubclass(model, Network) else model, **of_model)
        frozen = model(**of_model) if issubclass(model, Frozen) else None
        if frozen is not None:
            make = frozen if spec.on_features else partial(frozen.unfrozen, trained=False)
        kind, options = located(spec.uncertainty, (Uncertainty,), "uncertainty")
        self.uncertainty: Uncertainty = kind(**options)
        try:
            first = _below(tensors, "front")
            embedder = frozen.embedder(trained=False) if frozen is not None and spec.on_features else None
            self.front = (
                Front(embedder, spec.normalization, first.get("mean"), first.get("deviation")).to(device).eval()
            )
            self.front.load_state_dict(first)
            networks = [
                self._network(make, _below(tensors, f"network.{member}")).to(device).eval()
                for member in range(spec.members)
            ]
            self.posterior = restore(self.uncertainty, networks, _below(tensors, "posterior"))
        except AlframeError:
            raise
        except (RuntimeError, KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"Expected the weights of the exported networks, got other ones: {str(error).splitlines()[0]}; export the run again."
            ) from error
        self.views = []
        if spec.augmentation is not None:
            augment, options = located(spec.augmentation, (FixedAugment,), "augmentation")
            self.views = fixed_augmentations(augment(**options), self.uncertainty.n_augmented)

    @property
    def averages(self) -> bool:
        """Whether every draw is a separate network, so that one graph of them all gives the mean probabilities."""
        return self.spec.members == self.uncertainty.n_draws

    def graph(self) -> Probabilities:
        """The mean over the networks if each draw is one, else only the first one (no dropout, the trained weights)."""
        temperature = self.posterior.numbers.get("posterior/temperature", 1.0)
        return Probabilities(self.front, self.posterior.networks, temperature).eval()

    @torch.no_grad()
    def predict(self, images: UInt8[Tensor, "b c h w"]) -> Prediction:
        """The run's posterior on raw images of `spec.shape`."""
        raw = images.to(self.device)
        return self.posterior.predict(self.front(raw), lambda j: self.front(self.views[j](raw)))

    def expected(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """The probabilities that `graph` must give."""
        prediction = self.predict(images)
        return (prediction.mean_log_probs if self.averages else prediction.point_log_probs).exp()

    def _network(self, make: Callable[..., nn.Module], tensors: Tensors) -> nn.Module:
        shape: tuple[int, ...] = self.spec.shape
        if self.spec.on_features:
            assert isinstance(self.front.mean, Tensor), "features are normalised by their mean"
            shape = (self.front.mean.numel(),)
        with scoped(generator(0, 0, "init")):  # the initial weights are replaced
            network = make(shape, len(self.spec.classes))
        network.load_state_dict(tensors)
        return network


def save(path: Path, spec: Spec, tensors: Tensors) -> None:
    """Save one safetensors file with the description in its header."""
    whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    save_file(whole, path, metadata={HEADER: spec.to_json()})
    path.chmod(0o644)  # safetensors creates it as private


def load(path: Path, device: torch.device) -> Predictor:
    """Load a file written by `save`. Raises `DataError` for any other or damaged file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise DataError(
            f"Expected an exported model in {path}, got an unreadable file ({error}); copy it again, or export the run again."
        ) from error
    if HEADER not in metadata:
        raise DataError(
            f"Expected a model written by alframe export in {path}, got another safetensors file; name the folder of an export."
        )
    return Predictor(Spec.from_json(metadata[HEADER], str(path)), tensors, device)


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
