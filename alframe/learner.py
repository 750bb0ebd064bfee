"""The network side of the loop: fit the posterior to the labelled images, read predictions off any images."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alframe.console import progress
from alframe.errors import RunFolderError, TrainingError
from alframe.images import Data, ImageSet
from alframe.pixels import Normalizer, Pixels
from alframe.rng import generator, scoped
from alframe.trainer.trainer import Examples, Trainer
from alframe.types import Prediction
from alframe.uncertainty.base import Posterior, Uncertainty

POOL, TEST, TARGET = "pool", "test", "target"


class Learner:
    """Owns the device: images, networks, posterior. `build_network(shape, n_classes)` makes an untrained network.

    `target` are unlabelled images that some strategies ask about, where these are neither the pool nor the test set.
    """

    def __init__(
        self,
        data: Data,
        build_network: Callable[[tuple[int, ...], int], nn.Module],
        trainer: Trainer,
        uncertainty: Uncertainty,
        *,
        seed: int,
        device: torch.device,
        batch_size: int = 256,
        resident_bytes: int = 4 << 30,
        show_progress: bool = False,
        target: ImageSet | None = None,
    ) -> None:
        self.device, self.seed, self.batch_size, self.show_progress = device, seed, batch_size, show_progress
        self.n_classes, self.shape, self.augment = data.pool.n_classes, data.pool.shape, data.augment
        self.build_network, self.trainer, self.uncertainty = build_network, trainer, uncertainty
        self.pixels = {
            name: Pixels(images.pixels, device, resident_bytes)
            for name, images in ((POOL, data.pool), (TEST, data.test), (TARGET, target))
            if images is not None
        }
        self.prepare = Normalizer(data.pool.pixels, device, data.normalization)
        self.posterior: Posterior | None = None
        self._last_weights: list[dict[str, Tensor]] | None = None

    def fit(self, training: Examples, validation: Examples, round: int) -> dict[str, float]:
        """Fit every network of the posterior; returns `train/loss`, the mean over the networks.

        Without a single label the networks stay as they were initialised.
        """
        reports = []

        def train(member: int) -> nn.Module:
            def stream(purpose: str) -> torch.Generator:
                return generator(self.seed, round, f"{purpose}/{member}")

            with scoped(stream("init")):
                network = self.build_network(self.shape, self.n_classes).to(self.device)
            if self.trainer.warm_start and self._last_weights is not None:
                network.load_state_dict(self._last_weights[member])
            if not len(training):
                return network.eval()
            report = self.trainer.fit(
                network,
                self.pixels[POOL],
                training,
                n_classes=self.n_classes,
                prepare=self.prepare,
                stream=stream,
                augment=self.augment,
                validation=validation if len(validation) else None,
                description=f"round {round}: training" if self.show_progress else "",
            )
            reports.append(report)
            return network

        self.posterior = self.uncertainty.fit(train, generator(self.seed, round, "posterior"))
        if self.trainer.warm_start:
            self._last_weights = [
                {key: value.detach().clone() for key, value in network.state_dict().items()}
                for network in self.posterior.networks
            ]
        return {"train/loss": math.fsum(r.loss for r in reports) / len(reports)} if reports else {}

    def predictions(self, which: str, rows: Tensor, description: str = "") -> Iterator[Prediction]:
        """A `Prediction` for each batch of `rows` of the pool, the test or the target set, under the evaluation transform, in order."""
        batches = progress(rows.split(self.batch_size), description, enabled=self.show_progress and bool(description))
        for batch in batches:
            with torch.no_grad():
                prediction = self.fitted.predict(self.prepare(self.pixels[which].take(batch)))
            yield prediction

    def mean_log_probs(self, which: str, rows: Tensor, description: str = "") -> Tensor:
        """Log of the mean probabilities of `rows`, float32 [len(rows), c] on the CPU. Raises `TrainingError` where they are NaN."""
        batches = [prediction.mean_log_probs.cpu() for prediction in self.predictions(which, rows, description)]
        log_probs = torch.cat(batches) if batches else torch.empty(0, self.n_classes)
        if torch.isnan(log_probs).any():
            bad = int(torch.isnan(log_probs).any(dim=1).nonzero()[0])
            raise TrainingError(
                f"Expected finite predictions, got NaN for row {int(rows[bad])} of the {which} images; "
                "lower trainer.lr, set trainer.gradient_clip=1.0, or use trainer.precision=fp32."
            )
        return log_probs

    @property
    def fitted(self) -> Posterior:
        assert self.posterior is not None, "the loop fits before it predicts"
        return self.posterior

    def save(self, path: Path) -> None:
        """Weights of every network to one safetensors file (temporary file, then rename)."""
        tensors: dict[str, Tensor] = {}
        for member, network in enumerate(self.fitted.networks):
            tensors |= {
                f"{member}.{key}": value.detach().cpu().contiguous() for key, value in network.state_dict().items()
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary)
        temporary.replace(path)

    def load_warm_start(self, path: Path) -> None:
        """The weights that the next round starts from."""
        try:
            tensors: dict[str, Any] = load_file(path)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunFolderError(
                f"Expected the last round's weights in {path}, got: {error}; start again with run.overwrite=true."
            ) from error
        members = sorted({int(key.split(".", 1)[0]) for key in tensors})
        self._last_weights = [
            {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{member}.")}
            for member in members
        ]
