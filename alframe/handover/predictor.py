"""Trained networks with their preprocessing: from raw images to the same predictions as in the run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from alframe import __version__
from alframe.errors import AlframeError, ConfigError, DataError
from alframe.images import FixedAugment
from alframe.learner import fixed_augmentations
from alframe.model.any_module import network_of
from alframe.model.base import Network
from alframe.model.embedder import Embedder
from alframe.model.evidence import AT_ONCE, evidence_maps
from alframe.model.frozen import Frozen
from alframe.pixels import normalize
from alframe.rng import generator, scoped
from alframe.types import Prediction
from alframe.uncertainty.base import Posterior, Uncertainty
from alframe.uncertainty.laplace import add_one, drawn_logits
from alframe.uncertainty.tempered import restore

BATCH = 32  # images per batch: a trunk at 224 pixels takes a gigabyte for eight times as many
HEADER = "alframe"  # key of the description in the file's metadata

Tensors = dict[str, Tensor]
"""`front.<name>`, `network.<member>.<name>` and `posterior.<name>`."""
FORMAT = 1
STRETCH, SAME = "stretch", "same"


@dataclass(frozen=True)
class Spec:
    """`classes` in the order of the outputs; `shape` (channels, height, width) of the uint8 input images.

    `resize`: "stretch" (any size is stretched to `shape` with PIL's bilinear filter) or "same" (other sizes are rejected).
    `normalization` is "pool" (tensors `front.mean` and `front.deviation`, per channel or per feature of the trunk),
    "image" or "none", as in `Normalizer`. `model`, `uncertainty` and `augmentation` are a class (`_target_`) with options.
    `on_features`: the networks read features of the model's frozen trunk. `run` describes the original run.
    `normal`: the classes that are no defects, or None if unknown.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    resize: str
    normalization: str
    model: dict[str, Any]
    on_features: bool
    uncertainty: dict[str, Any]
    members: int
    augmentation: dict[str, Any] | None = None
    run: dict[str, Any] = field(default_factory=dict)
    normal: tuple[int, ...] | None = None
    alframe: str = __version__
    format: int = FORMAT

    @property
    def defects(self) -> tuple[int, ...] | None:
        """The classes that are not normal; None if unknown."""
        return None if self.normal is None else tuple(c for c in range(len(self.classes)) if c not in self.normal)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> "Spec":
        """Parse what `to_json` wrote. Raises `DataError` for other text or a later format."""
        try:
            values = json.loads(text)
            if values["format"] > FORMAT:
                raise DataError(
                    f"Expected an export of format {FORMAT} or earlier in {where}, got {values['format']}, written by alframe "
                    f"{values.get('alframe')}; install that version."
                )
            values = {"normal": None, **values}  # exports before it was known have none
            spec = cls(**{f.name: values[f.name] for f in fields(cls)})
            tuples = {"classes": tuple(spec.classes), "shape": tuple(spec.shape)}
            return cls(**{**vars(spec), **tuples, "normal": None if spec.normal is None else tuple(spec.normal)})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"Expected the description of a model in {where}, got a damaged one ({type(error).__name__}: {error}); export the run again."
            ) from error


class Front(nn.Module):
    """Raw images [b, c, h, w] from 0 to 255 to network input: features of the `embedder`, if any, then normalised."""

    def __init__(self, embedder: Embedder | None, mode: str, mean: Tensor | None, deviation: Tensor | None) -> None:
        super().__init__()
        self.embedder, self.mode = embedder, mode
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        x = images if self.embedder is None else self.embedder(images)
        return self.normalized(x)

    def normalized(self, x: Tensor) -> Tensor:
        return normalize(x, self.mean, self.deviation, self.mode)  # type: ignore[arg-type]


class Probabilities(nn.Module):
    """Raw images to probabilities [b, c] in one graph: the mean over the networks of `posterior`, or over its drawn weights.

    Logits are divided by its temperature and shifted as it says.
    """

    def __init__(self, front: Front, posterior: Posterior, exact: bool) -> None:
        super().__init__()
        state, self.exact = posterior.state, exact
        self.front, self.networks = front, nn.ModuleList(posterior.networks)
        self.temperature = float(state.get("temperature", 1.0))
        for name in ("weights", "prior", "factor") if exact else ():
            self.register_buffer(name, state[name])
        self.register_buffer("shift", state.get("shift", torch.zeros(1)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.front(images)
        if self.exact:
            h, logits = add_one(self.networks[0].embed(x)), self.networks[0](x)  # type: ignore[operator]
            draws = drawn_logits(h, logits, self.weights, (self.prior, self.factor))  # type: ignore[arg-type]
        else:
            draws = torch.stack([network(x) for network in self.networks], dim=1)
        return (draws / self.temperature + self.shift).softmax(dim=-1).mean(dim=1)  # type: ignore[operator]


class Predictor:
    """Predicts from `spec` and `tensors`. Raises `DataError` if the tensors do not belong to the networks."""

    def __init__(self, spec: Spec, tensors: Tensors, device: torch.device) -> None:
        self.spec, self.device = spec, device
        frozen: Frozen | None = None
        if (builder := library_builder(spec.model)) is not None:
            make: Callable[..., Any] = builder
        else:
            model, of_model = located(spec.model, (nn.Module, Frozen), "network")
            make = partial(model.untrained if issubclass(model, Network) else model, **of_model)
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
            self._pools = frozen.pools_of(embedder) if frozen is not None and embedder is not None else None
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
        """Whether one graph gives the mean probabilities: every draw is a separate network, or variances are exact."""
        return self.spec.members == self.uncertainty.n_draws or self.is_exact

    @property
    def is_exact(self) -> bool:
        """Whether the draws have exact variances, so that their mean is the posterior mean."""
        return "factor" in self.posterior.state

    @property
    def passes_per_image(self) -> int:
        """How many inputs of the trunk an image becomes: in `graph` all of them go through it together."""
        return 1 if self.front.embedder is None else self.front.embedder.n_passes

    def graph(self) -> Probabilities:
        """The mean probabilities if `averages`, else those of the first network (no dropout, the trained weights)."""
        return Probabilities(self.front, self.posterior, self.is_exact).to(self.device).eval()

    @torch.no_grad()
    def predict(self, images: UInt8[Tensor, "b c h w"]) -> Prediction:
        """The run's posterior on raw images of `spec.shape`."""
        raw = images.to(self.device)
        return self.posterior.predict(self.front(raw), lambda j: self.front(self.views[j](raw)))

    def evidence(self, images: UInt8[Tensor, "b c h w"], classes: Int[Tensor, " b"]) -> Float[Tensor, "b h w"] | None:
        """Where in raw images the evidence for their `classes` is, as `Learner.evidence` gives it; None if it has no place."""
        if self.spec.on_features and self._pools is None:
            return None
        networks, raw = self.posterior.networks, images.to(self.device)
        parts = []
        for some, of in zip(raw.split(AT_ONCE), classes.split(AT_ONCE), strict=True):
            maps = evidence_maps(networks, some, self.front.normalized, self._pools, of)
            if maps is None:
                return None
            parts.append(maps)
        return torch.cat(parts)

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
            network = network_of(make, shape, len(self.spec.classes))
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


def describe(part: object) -> dict[str, Any]:
    """The class and the options of a dataclass of plain values. Raises `ConfigError` for anything else."""
    if not is_dataclass(part) or isinstance(part, type):
        raise ConfigError(
            f"Expected an augmentation that is a dataclass, to export it with uncertainty=tta, got {type(part).__name__}; make it a dataclass."
        )
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **asdict(part)}


def library_builder(node: Mapping[str, Any]) -> Callable[..., nn.Module] | None:
    """The function of torchvision.models or timm that a node names, to be called without weights; None if it names none."""
    target = str(node.get("_target_"))
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    if target.startswith("torchvision.models."):
        name = target.rpartition(".")[2]
        if name in torchvision.models.list_models(module=torchvision.models):
            return partial(torchvision.models.get_model_builder(name), **{**options, "weights": None})
    if target in ("timm.create_model", "timm.models.create_model") and find_spec("timm"):
        return partial(import_module("timm").create_model, **{**options, "pretrained": False})
    return None


def located(node: Mapping[str, Any], kinds: tuple[type, ...], what: str) -> tuple[type, dict[str, Any]]:
    """The class that a node names, and its options.

    A file from others can only select classes of these `kinds`. Raises `ConfigError` for anything else, and for failed
    imports.
    """
    target = str(node.get("_target_"))
    module, _, name = target.rpartition(".")
    try:
        thing = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"Expected an importable {what}, got '{target}' ({error}); run from the folder that contains it, or install it."
        ) from error
    if not (isinstance(thing, type) and issubclass(thing, kinds)):
        advice = (
            "only classes can be exported, and the functions of torchvision.models and timm: write one that makes it"
        )
        raise ConfigError(f"Expected the class of a {what}, got '{target}'; {advice}.")
    return thing, {key: value for key, value in node.items() if not key.startswith("_")}
