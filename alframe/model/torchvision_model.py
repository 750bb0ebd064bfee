"""Any classification network of torchvision, by name."""

import warnings
from pathlib import Path
from typing import Any, Self

import torch
import torchvision
from torch import Tensor, nn

from alframe.errors import ConfigError, DataError, did_you_mean
from alframe.model.base import Network
from alframe.model.checks import check_images, check_rate
from alframe.model.pooled import Pooled, pooled_by
from alframe.model.weights import WEIGHT_FILES, load_weights


class Torchvision(Network):
    """`torchvision.models.<name>` cut before its last linear layer; `dropout` before that layer replaces the model's own.

    `weights` is null (untrained), a name such as DEFAULT or IMAGENET1K_V1 (downloaded once by torchvision), or the path of
    a state dict (`alframe.model.weights`). Grey images are repeated to three channels. Dropout elsewhere in the model keeps
    torchvision's rates. Raises ConfigError for an unknown name or weights, a model that does not end in a linear layer, and
    images of a size that it does not admit; DataError when weights cannot be had.
    """

    def __init__(
        self, shape: tuple[int, ...], n_classes: int, *, name: str, weights: str | None = None, dropout: float = 0.5
    ) -> None:
        super().__init__()
        check_images(name, shape, least=1)
        check_rate("dropout", dropout)
        self.trunk = load_model(name, weights)
        n_features = remove_last_layer(self.trunk, name)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(n_features, n_classes)
        check_size(self, name, shape)

    @classmethod
    def check_files(cls, *, name: str, weights: str | None = None, **others: Any) -> None:
        """Raise what a file of weights would, before a run begins."""
        if weights is not None and weights.endswith(WEIGHT_FILES):
            load_model(name, weights)

    @classmethod
    def untrained(cls, shape: tuple[int, ...], n_classes: int, **options: Any) -> Self:
        network = cls(shape, n_classes, **{**options, "weights": None})
        scale_as_published(network.trunk, options.get("weights"))
        return network

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x.expand(-1, 3, -1, -1))

    def pooled(self, x: Tensor) -> Pooled | None:
        return pooled_by(self.trunk, x.expand(-1, 3, -1, -1))

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))


def load_model(name: str, weights: str | None) -> nn.Module:
    """torchvision's model `name` with its last layer still on; `weights` as in `Torchvision`."""
    check_name(name)
    named = weights is not None and not weights.endswith(WEIGHT_FILES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # googlenet and inception_v3 announce another initialisation
        model = _download(name, str(weights)) if named else torchvision.models.get_model(name, weights=None)
    for auxiliary in ("aux1", "aux2", "AuxLogits"):  # second classifiers, which would make training return tuples
        if hasattr(model, auxiliary):
            setattr(model, auxiliary, None)
            model.aux_logits = False
    if weights is not None and not named:
        load_weights(model, f"torchvision's {name}", Path(weights).expanduser())
    return model


def scale_as_published(model: nn.Module, weights: str | None) -> None:
    """Without weights of its own, let `model` scale its images as torchvision's published `weights` make it (two models do)."""
    if weights is not None and not weights.endswith(WEIGHT_FILES) and hasattr(model, "transform_input"):
        model.transform_input = True  # type: ignore[assignment]


def check_name(name: str, also: tuple[str, ...] = ()) -> None:
    """Raises ConfigError unless torchvision, or `also`, has a classification model of that name."""
    known = [*torchvision.models.list_models(module=torchvision.models), *also]
    if name not in known:
        hint = did_you_mean(name, known, otherwise="; torchvision.models.list_models() lists them")
        raise ConfigError(f"Expected the name of a torchvision classification model, got '{name}'{hint}.")


@torch.no_grad()
def check_size(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Raises ConfigError unless `model` runs on one blank image: torchvision's models reveal their minimum size only by failing."""
    training = model.training
    try:
        model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"Expected images of a size that torchvision's {name} admits, got {shape} ({str(error).splitlines()[0]}); "
            "resize the images or choose another model."
        ) from error
    model.train(training)


def weights_entry(name: str, weights: str) -> Any:
    """torchvision's entry (url, transforms, ...) of the weights called `weights` of model `name`."""
    known = torchvision.models.get_model_weights(name)
    if weights not in ("DEFAULT", *known.__members__):
        hint = did_you_mean(weights, known.__members__)
        raise ConfigError(
            f"Expected model.weights to be one of {', '.join(['DEFAULT', *known.__members__])}, a path ending in "
            f"{', '.join(WEIGHT_FILES)}, or null, got '{weights}'{hint}."
        )
    return known[weights]


def remove_last_layer(model: nn.Module, name: str) -> int:
    """Replace the last linear layer, and a dropout layer right before it, by identities; returns its number of inputs."""
    leaves = [(path, module) for path, module in model.named_modules() if not any(module.children())]
    linear = [i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear)]
    if not linear or linear[-1] != len(leaves) - 1:
        raise ConfigError(
            f"Expected a torchvision model that ends in a linear layer, got {name}, which ends in {type(leaves[-1][1]).__name__}; "
            "choose another model."
        )
    path, last = leaves[-1]
    model.set_submodule(path, nn.Identity())
    before, layer = leaves[-2]
    if isinstance(layer, nn.Dropout):
        model.set_submodule(before, nn.Identity())
    return int(last.in_features)


def _download(name: str, weights: str) -> nn.Module:
    entry = weights_entry(name, weights)
    try:
        return torchvision.models.get_model(name, weights=entry)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Expected to download the weights {entry} ({entry.url}), got {type(error).__name__}: {error}; check the connection, put "
            f"that file into {Path(torch.hub.get_dir()) / 'checkpoints'}, or give model.weights the path of a state dict."
        ) from error
