"""Fit one network to the labelled images. Raw PyTorch: no worker processes, no Python per sample, no sync per step."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alframe.console import progress
from alframe.errors import TrainingError, expect
from alframe.pixels import Pixels, Prepare
from alframe.rng import scoped

LOSS_CHECK_STEPS = 50  # reading the loss waits for the device, so it is read seldom


@dataclass(frozen=True)
class Examples:
    """Rows of `Pixels` with their labels (int64, both on the CPU)."""

    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class FitReport:
    """What a fit did: `loss` is the mean training loss of its last steps (nats), `best_step` the step whose weights were kept."""

    steps: int
    loss: float
    best_step: int
    validation_accuracy: float | None = None


class Trainer:
    """Mini-batch training with a step budget that does not collapse when there are 100 labels.

    Steps = max(epochs x batches, min_steps), at most max_steps. A batch is `batch_size` images, or all of them when there are
    fewer; the order is a stream of permutations, so every batch is full. `early_stop` is a patience in validations (one every
    `validate_every` steps); `best_checkpoint` keeps the weights with the best validation accuracy (ties: lowest loss).
    `precision` "auto" is bf16 on CUDA and fp32 elsewhere; `channels_last` null follows CUDA.
    """

    def __init__(
        self,
        *,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: float = 0.05,
        epochs: int = 30,
        min_steps: int = 300,
        max_steps: int | None = None,
        batch_size: int = 64,
        schedule: Literal["cosine", "one_cycle", "constant"] = "cosine",
        warmup: float = 0.1,
        label_smoothing: float = 0.0,
        class_weighting: Literal["none", "balanced"] = "none",
        augment: bool = True,
        early_stop: int | None = None,
        best_checkpoint: bool = False,
        validate_every: int = 50,
        warm_start: bool = False,
        gradient_clip: float | None = None,
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        channels_last: bool | None = None,
        compile: bool = False,
    ) -> None:
        expect(lr > 0, f"Expected trainer.lr > 0, got {lr}; 0.05 is a good start for SGD, 0.001 for AdamW.")
        expect(epochs >= 0 and min_steps >= 0, f"Expected epochs and min_steps >= 0, got {epochs} and {min_steps}.")
        expect(
            epochs + min_steps > 0, "Expected some training, got trainer.epochs=0 and trainer.min_steps=0; raise one."
        )
        expect(max_steps is None or max_steps >= 1, f"Expected trainer.max_steps >= 1 or null, got {max_steps}.")
        expect(batch_size >= 2, f"Expected trainer.batch_size >= 2 (batch-norm needs two), got {batch_size}.")
        expect(0 <= warmup < 1, f"Expected trainer.warmup in [0, 1) as a share of the steps, got {warmup}.")
        expect(0 <= label_smoothing < 1, f"Expected trainer.label_smoothing in [0, 1), got {label_smoothing}.")
        expect(early_stop is None or early_stop >= 1, f"Expected trainer.early_stop >= 1 or null, got {early_stop}.")
        expect(validate_every >= 1, f"Expected trainer.validate_every >= 1, got {validate_every}.")
        expect(
            gradient_clip is None or gradient_clip > 0,
            f"Expected trainer.gradient_clip > 0 or null, got {gradient_clip}; 1.0 is usual.",
        )
        self.optimizer, self.lr, self.epochs, self.min_steps, self.max_steps = (
            optimizer,
            lr,
            epochs,
            min_steps,
            max_steps,
        )
        self.batch_size, self.schedule, self.warmup, self.label_smoothing = (
            batch_size,
            schedule,
            warmup,
            label_smoothing,
        )
        self.class_weighting, self.augment, self.early_stop = class_weighting, augment, early_stop
        self.best_checkpoint, self.validate_every, self.warm_start = best_checkpoint, validate_every, warm_start
        self.gradient_clip, self.precision, self.channels_last, self.compile = (
            gradient_clip,
            precision,
            channels_last,
            compile,
        )

    @property
    def needs_validation(self) -> bool:
        return self.early_stop is not None or self.best_checkpoint

    def n_steps(self, n: int) -> int:
        """Optimizer steps for `n` labelled images."""
        steps = max(self.epochs * math.ceil(n / self.batch_size), self.min_steps)
        return min(steps, self.max_steps or steps)

    def fit(
        self,
        network: nn.Module,
        pixels: Pixels,
        examples: Examples,
        *,
        n_classes: int,
        prepare: Prepare,
        stream: Callable[[str], torch.Generator],
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        validation: Examples | None = None,
        description: str = "",
    ) -> FitReport:
        """Train `network` in place and leave it in eval mode. `stream(purpose)` gives the random streams of this fit;
        with a `description`, a progress bar is shown.

        Raises `TrainingError` when the loss is not finite.
        """
        device = pixels.device
        if self.channels_last or (self.channels_last is None and device.type == "cuda"):
            network.to(memory_format=torch.channels_last)
        forward = torch.compile(network) if self.compile else network
        steps, batch = self.n_steps(len(examples)), min(self.batch_size, len(examples))
        optimizer = self.optimizer(network.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._lr_factor(step, steps))
        weight = self._class_weight(examples.labels, n_classes, device)
        scaler = torch.amp.GradScaler(device.type, enabled=self._dtype(device) == torch.float16)
        order, labels = _order(len(examples), steps * batch, stream("order")), examples.labels.to(device)
        shake = augment if self.augment else None
        draws = stream("augment")
        best = _Best()
        recent: list[Tensor] = []

        network.train()
        with scoped(stream("dropout")):
            for step in progress(range(steps), description, enabled=bool(description)):
                chosen = order[step * batch : (step + 1) * batch]
                raw = pixels.take(examples.rows[chosen])
                x = prepare(shake(raw, draws) if shake else raw)
                with self._autocast(device):
                    loss = cross_entropy(
                        forward(x).float(),
                        labels[chosen.to(device)],
                        weight=weight,
                        label_smoothing=self.label_smoothing,
                    )
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if self.gradient_clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                recent.append(loss.detach())
                last = step + 1 == steps
                if len(recent) == LOSS_CHECK_STEPS or last:
                    mean_loss = _finite_mean(recent, step + 1, self.lr)
                    recent.clear()
                if validation is not None and self.needs_validation and ((step + 1) % self.validate_every == 0 or last):
                    best.update(step + 1, *self.validate(network, pixels, validation, prepare), network)
                    network.train()
                    if self.early_stop is not None and best.misses >= self.early_stop:
                        break
        if self.best_checkpoint and best.weights is not None:
            network.load_state_dict(best.weights)
        if recent:
            mean_loss = _finite_mean(recent, step + 1, self.lr)
        network.eval()
        return FitReport(
            step + 1, mean_loss, best.step if best.weights and self.best_checkpoint else step + 1, best.accuracy
        )

    @torch.no_grad()
    def validate(self, network: nn.Module, pixels: Pixels, examples: Examples, prepare: Prepare) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean loss in nats on `examples`, in eval mode."""
        network.eval()
        correct = loss = 0.0
        for rows, labels in zip(examples.rows.split(512), examples.labels.split(512), strict=True):
            with self._autocast(pixels.device):
                logits = network(prepare(pixels.take(rows))).float()
            labels = labels.to(pixels.device)
            correct += float((logits.argmax(1) == labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
        return correct / len(examples), loss / len(examples)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        dtype = self._dtype(device)
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)

    def _dtype(self, device: torch.device) -> torch.dtype:
        auto = "bf16" if device.type == "cuda" else "fp32"
        name = auto if self.precision == "auto" else self.precision
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]

    def _class_weight(self, labels: Tensor, n_classes: int, device: torch.device) -> Tensor | None:
        """Inverse class frequency with mean 1 over the images; classes not seen yet weigh nothing."""
        if self.class_weighting == "none":
            return None
        counts = torch.bincount(labels, minlength=n_classes).float()
        weight = torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp_min(1)), 0.0)
        return weight.to(device)

    def _lr_factor(self, step: int, steps: int) -> float:
        """Learning rate as a share of `lr`: linear warm-up, then cosine or linear (one-cycle) to zero, or constant."""
        if self.schedule == "one_cycle":
            peak = max(1.0, max(self.warmup, 0.2) * steps)
            return (step + 1) / peak if step + 1 < peak else max(steps - step, 0) / max(steps - peak + 1, 1.0)
        warm = self.warmup * steps
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


class _Best:
    """The weights with the best validation accuracy so far (ties: lowest loss), and how long ago that was."""

    def __init__(self) -> None:
        self.step, self.misses, self.accuracy = 0, 0, None
        self.weights: dict[str, Tensor] | None = None
        self._key = (-1.0, 0.0)

    accuracy: float | None

    def update(self, step: int, accuracy: float, loss: float, network: nn.Module) -> None:
        if (accuracy, -loss) > self._key:
            self._key, self.step, self.misses, self.accuracy = (accuracy, -loss), step, 0, accuracy
            self.weights = deepcopy(network.state_dict())
        else:
            self.misses += 1


def _order(n: int, length: int, generator: torch.Generator) -> Tensor:
    """`length` row numbers: one permutation of `n` after another, so that all rows are seen equally often."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(math.ceil(length / n))])[:length]


def _finite_mean(losses: list[Tensor], step: int, lr: float) -> float:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise TrainingError(
            f"Expected a finite training loss, got {mean} within the {len(losses)} steps before step {step}; "
            f"lower trainer.lr (now {lr}), set trainer.gradient_clip=1.0, or use trainer.precision=fp32."
        )
    return mean
