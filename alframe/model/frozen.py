"""A pretrained trunk that runs once over the images; only the head on its features is trained, until the trunk is unfrozen."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from alframe.console import progress
from alframe.errors import DataError, expect
from alframe.images import ImageSet, reserve
from alframe.model.base import Model, Network, Pools, Transform
from alframe.model.checks import check_images, check_rate, check_width
from alframe.model.embedder import VIEWS, Embedder, spans
from alframe.model.pooled import Pooled, averaged_by, pooled_by
from alframe.model.torchvision_model import check_name, load_model, weights_entry
from alframe.model.trunk import LITE0, check_layer, lite0_weights, load_trunk, modules_before, stage_ends
from alframe.model.weights import WEIGHT_FILES
from alframe.record.files import replacing, write_atomically
from alframe.rng import scoped

FEATURES = 1  # part of the cache key: raise it with every change that affects a feature
PROBE = 64  # images whose transformation tells views apart
LEAST_TILE = 32  # pixels: what one feature of the trunk's last layer covers at least


@dataclass(frozen=True)
class Frozen(Model):
    """Features of a pretrained trunk as a dataset of their own (`prepare`), a head on them (call), and both as one (`unfrozen`).

    `trunk` is efficientnet_lite0, whose ImageNet weights a Python package carries, or a torchvision classification model
    with `weights` as in `Torchvision`. Images are stretched to `input_size` pixels, a side or [height, width] (bilinear, antialiased; null: left as they are),
    grey ones repeated to three channels; augmentation cannot act on features. `pooling` "layers" (lite0 only) appends
    what earlier layers see of small structures. The head is dropout and one linear layer,
    after a layer of `hidden` units where that is given. Raises ConfigError for unknown names and sizes out of range.

    `tiles`, for small defects in large photos: n x n or [rows, columns] tiles, evenly placed so that neighbours share a quarter
    of their side. Each is resized to `input_size` (null: left at its own size), and a feature is the largest over the tiles.
    `average_over`: features are the mean over the image and its mirror images ("flips", four passes of the trunk), or over
    the eight rotations and mirrorings of a square ("turns"). With tiles: the largest over the tiles of each tile's mean.

    `freeze_until` is null (only the head is ever trained), the first round in which trunk and head are trained together on
    the images, or the path of a layer: from round 0 on that layer and all that is defined after it are trained on the images.
    The first round on images always starts from the pretrained trunk and a new head; trainer.warm_start counts from there.
    """

    trunk: str = LITE0
    weights: str = "DEFAULT"
    input_size: int | list[int] | None = 160
    pooling: Literal["mean", "layers"] = "mean"
    hidden: int | None = None
    dropout: float = 0.5
    batch_size: int = 32
    freeze_until: int | str | None = None
    tiles: int | list[int] | None = None
    average_over: Literal["none", "flips", "turns"] = "none"

    on_features: ClassVar[bool] = True
    added_options: ClassVar[Mapping[str, Any]] = {
        "freeze_until": None,
        "pooling": "mean",
        "tiles": None,
        "average_over": "none",
    }

    def __post_init__(self) -> None:
        check_name(self.trunk, also=(LITE0,))
        if self.trunk == LITE0:
            expect(
                self.weights == "DEFAULT",
                f"Expected model.weights to be DEFAULT for {LITE0}, got {self.weights}; its package carries one set of weights.",
            )
        elif not self.weights.endswith(WEIGHT_FILES):
            weights_entry(self.trunk, self.weights)
        expect(
            not isinstance(self.input_size, list) or len(self.input_size) == 2,
            f"Expected model.input_size to be a number of pixels, [height, width] or null, got {self.input_size}.",
        )
        for side in self.size or ():
            check_width("input_size", side)
        expect(
            self.pooling == "mean" or self.trunk == LITE0,
            f"Expected model.pooling=mean for {self.trunk}, got {self.pooling}; the layers of {LITE0} only are known.",
        )
        expect(
            len(self.grid) == 2 and min(self.grid) >= 1,
            f"Expected model.tiles to be a number of at least 1, [rows, columns] or null, got {self.tiles}.",
        )
        expect(
            self.freeze_until is None or (self.grid == (1, 1) and self.average_over == "none"),
            "Expected model.tiles=null and model.average_over=none with model.freeze_until, which trains the trunk on whole images, "
            f"got {self.tiles} and {self.average_over}; set model.freeze_until=null to use them.",
        )
        self._check_turns(self.size)
        check_width("batch_size", self.batch_size)
        check_width("hidden", 1 if self.hidden is None else self.hidden)
        check_rate("dropout", self.dropout)
        if isinstance(self.freeze_until, str):
            check_layer(self.trunk, self.freeze_until)
        else:
            expect(
                self.freeze_until is None or self.freeze_until >= 0,
                f"Expected model.freeze_until to be null, a round from 0 on or the name of a layer, got {self.freeze_until}; "
                "0 trains the trunk from the start.",
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the trunk's input; None: those of the images."""
        if self.input_size is None:
            return None
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else tuple(self.input_size)  # type: ignore[return-value]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tiles."""
        if isinstance(self.tiles, list):
            return tuple(self.tiles)  # type: ignore[return-value]
        return (1, 1) if self.tiles is None else (self.tiles, self.tiles)

    def trunk_on(self, *, fold: bool = True, trained: bool = True) -> nn.Sequential:
        """The trunk as `load_trunk` gives it."""
        return load_trunk(
            self.trunk, self.weights, self.size, layers=self.pooling == "layers", fold=fold, trained=trained
        )

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> "FeatureHead":
        return FeatureHead(shape, n_classes, hidden=self.hidden, dropout=self.dropout)

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        return self.hidden is None and self.freeze_until is None

    def at(self, round: int) -> Model:
        """Itself while the head is trained on features, from then on trunk and head as one."""
        frozen = self.freeze_until is None or (isinstance(self.freeze_until, int) and round < self.freeze_until)
        return self if frozen else FineTuned(self)

    def unfrozen(self, shape: tuple[int, ...], n_classes: int, trained: bool = True) -> "Unfrozen":
        """Trunk and head as one network on images, the trunk with its pretrained weights. Raises what `prepare` does.

        Without `trained` no weights are read: for a state dict that brings them all.
        """
        return Unfrozen(shape, n_classes, self, trained)

    def embedder(self, trained: bool = True) -> "Embedder":
        """What `prepare` runs: the trunk on images, in eval mode. `trained` as in `unfrozen`."""
        with scoped(torch.Generator().manual_seed(0)):  # construction draws initial weights, which are then replaced
            trunk = self.trunk_on(trained=trained)
        return Embedder(trunk.to(memory_format=torch.channels_last), self.size, self.grid, VIEWS[self.average_over])

    def pools(self, device: torch.device) -> Pools | None:
        return self.pools_of(self.embedder().to(device))

    def pools_of(self, embedder: "Embedder") -> Pools | None:
        """What `embedder` pools over the image, for a head without a hidden layer; not of tiles."""
        return None if self.hidden is not None else partial(averaged_by, embedder, ends=self.ends(embedder.trunk))

    def ends(self, trunk: nn.Module) -> list[nn.Module]:
        """The modules that give the maps of earlier layers, where `pooling` asks for them."""
        return stage_ends(trunk) if self.pooling == "layers" else []

    def prepare(
        self, images: ImageSet, cache: Path, device: torch.device, transform: Transform | None = None
    ) -> ImageSet:
        """`images` with float32 features [n, d] in place of pixels, computed on `device` once and mapped from `cache` afterwards.

        Kept by the hash of the pixels (not of labels and class names), trunk, weights, preparation and what the
        transform makes of the first images, with a digest: a damaged file is computed again. Raises
        DataError for images that are features already, ConfigError where a package is missing or the images do not suit
        `tiles` and `average_over`, and what `Torchvision` does.
        """
        expect(
            images.pixels.ndim == 4 and len(images) > 0,
            "Expected at least one image [n, channels, height, width] for a frozen trunk, "
            f"got an array of shape {images.pixels.shape}; choose a dataset of images.",
            DataError,
        )
        tile = spans(images.shape[1], self.grid[0])[1], spans(images.shape[2], self.grid[1])[1]
        expect(
            self.grid == (1, 1) or min(tile) >= LEAST_TILE,
            f"Expected tiles of at least {LEAST_TILE} x {LEAST_TILE} pixels, got {tile[0]} x {tile[1]} from images of {images.shape[1]} x "
            f"{images.shape[2]} with model.tiles={self.tiles}; raise dataset.size, or use fewer tiles.",
        )
        self._check_turns(self.size or tile)
        manifest: dict[str, object] = {
            "features": FEATURES,
            "trunk": self.trunk,
            "weights": self._weights_identity(),
            "input_size": self.input_size,
            "resize": "stretch, bilinear, antialias",
            "pixels_hash": images.pixels_hash,
            **({"pooling": self.pooling} if self.pooling != "mean" else {}),
            **({"tiles": list(self.grid)} if self.grid != (1, 1) else {}),
            **({"average_over": self.average_over} if self.average_over != "none" else {}),
        }
        if transform is not None:
            manifest["view"] = _hash(transform(_pixels(images, 0, PROBE)).numpy())
        key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:20]
        path = cache / f"features-{self.trunk}-{key}.npy"
        features = _open(path, manifest)
        if features is None:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # the cells of a sweep that start together compute it once
                features = _open(path, manifest)
                if features is None:
                    self._compute(images, path, manifest, device, transform)
                    features = _open(path, manifest)
        if features is None:
            raise DataError(
                f"Expected to read back the features just written to {path}, got other bytes; check the disk."
            )
        return replace(images, pixels=features)

    def _check_turns(self, size: tuple[int, int] | None) -> None:
        expect(
            self.average_over != "turns" or size is None or size[0] == size[1],
            f"Expected a square input of the trunk for model.average_over=turns, got {size} pixels; use flips, or one number as model.input_size.",
        )

    def check_files(self, **options: Any) -> None:
        """Raise what a file of weights would, before a run begins."""
        if self.weights.endswith(WEIGHT_FILES):
            load_model(self.trunk, self.weights)

    def _weights_identity(self) -> str:
        if self.trunk == LITE0:
            return Path(lite0_weights()).name
        if not self.weights.endswith(WEIGHT_FILES):
            return str(weights_entry(self.trunk, self.weights).url)
        with Path(self.weights).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @torch.no_grad()
    def _compute(
        self,
        images: ImageSet,
        path: Path,
        manifest: dict[str, object],
        device: torch.device,
        transform: Transform | None,
    ) -> None:
        """Run the trunk over all images. The file takes its name when it is complete, and the manifest only after it."""
        embedder = self.embedder().to(device)
        features: np.ndarray | None = None
        with replacing(path) as temporary:
            for start in progress(range(0, len(images), self.batch_size), f"features of {self.trunk}"):
                pixels = _pixels(images, start, self.batch_size).to(device)
                batch = embedder(pixels if transform is None else transform(pixels)).cpu().numpy()
                if features is None:
                    features = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(images), batch.shape[1]))
                    reserve(temporary)
                features[start : start + len(batch)] = batch
            assert isinstance(features, np.memmap)
            expect(
                bool(np.isfinite(features).all()),
                f"Expected finite features, got NaN or infinity from {self.trunk}; check its weights.",
                DataError,
            )
            features.flush()
        write_atomically(path.with_suffix(".json"), json.dumps(manifest | {"digest": _hash(features)}, indent=2))


@dataclass(frozen=True)
class FineTuned(Model):
    """Trunk and head of `frozen` as one network on images."""

    frozen: Frozen

    scales_images: ClassVar[bool] = True

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        return self.frozen.unfrozen(shape, n_classes)


class FeatureHead(Network):
    """The trained part over frozen features: identity or one hidden layer (`embed`), then dropout and a linear layer."""

    def __init__(
        self, shape: tuple[int, ...], n_classes: int, *, hidden: int | None = None, dropout: float = 0.5
    ) -> None:
        super().__init__()
        expect(
            len(shape) == 1,
            f"Expected features of one axis for the head of a frozen trunk, got shape {tuple(shape)}; "
            "run `Frozen.prepare` over the images first.",
        )
        self.trunk = nn.Identity() if hidden is None else nn.Sequential(nn.Linear(shape[0], hidden), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(shape[0] if hidden is None else hidden, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))


class Unfrozen(Network):
    """Trunk and head of `frozen` as one network: pixels [b, c, h, w] from 0 to 255, resized and scaled as for the features.

    Before any training it embeds as the head does on those features. Batch-norm is live, save in what stays frozen: the
    layers before the one that `freeze_until` names, which training leaves as they are. What drops out within the trunk, its
    last dropout layer excepted, does so in training.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int, frozen: Frozen, trained: bool = True) -> None:
        super().__init__()
        check_images(frozen.trunk, shape, least=1)
        size = frozen.size or (shape[1], shape[2])
        self.size = None if shape[1:] == size else size  # settled here, so that torch.fx meets no condition
        self.trunk = frozen.trunk_on(fold=False, trained=trained)
        with torch.no_grad():
            n_features = self.trunk(torch.zeros(1, 3, *size)).shape[1]
        self.top = frozen((n_features,), n_classes)
        kept = frozen.freeze_until if isinstance(frozen.freeze_until, str) else None
        self._is_linear, self._ends = frozen.hidden is None, frozen.ends(self.trunk)
        self._kept = [] if kept is None else modules_before(self.trunk[1], kept, frozen.trunk)
        for module in self._kept:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def embed(self, x: Tensor) -> Tensor:
        return self.top.embed(self.trunk(self._resized(x)))

    def pooled(self, x: Tensor) -> Pooled | None:
        return pooled_by(self.trunk, self._resized(x), self._ends) if self._is_linear else None

    def _resized(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = F.interpolate(x, size=self.size, mode="bilinear", antialias=True)
        return x.expand(-1, 3, -1, -1)

    def head(self, h: Tensor) -> Tensor:
        return self.top.head(h)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._kept:
            module.training = False
        return self


def _open(path: Path, manifest: dict[str, object]) -> np.ndarray | None:
    """The features at `path`, mapped read-only, or None unless its manifest and digest say that they are whole and meant."""
    try:
        stored = json.loads(path.with_suffix(".json").read_text())
        features = np.lib.format.open_memmap(path, "r")
        whole = stored == manifest | {"digest": _hash(features)}
    except (OSError, ValueError):
        return None
    return features if whole else None


def _hash(array: np.ndarray) -> str:
    digest = hashlib.blake2b(str((array.shape, array.dtype)).encode())
    for start in range(0, len(array), 4096):
        digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def _pixels(images: ImageSet, start: int, count: int) -> Tensor:
    return torch.from_numpy(np.array(images.pixels[start : start + count]))
