"""Fit one network to the labelled images. Raw PyTorch: no worker processes, no Python per sample, no sync per step."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alframe.console import progress
from alframe.errors import TrainingError, expect
from alframe.pixels import Pixels, Prepare
from alframe.rng import scoped
from alframe.trainer.base import Cycles, FitReport, Fitter, Lesson, Stream
from alframe.trainer.kept import Average, Best
from alframe.trainer.together import Together
from alframe.types import Examples

NESTEROV = partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.0005)
LOSS_CHECK_STEPS = 50  # reading the loss waits for the device, so it is read seldom


class Trainer(Fitter):
    """Mini-batch training with a step budget that does not collapse when there are 100 labels.

    Steps = max(epochs x batches, min_steps), at most max_steps. A batch is `batch_size` images, or all of them when there are
    fewer (a single one twice: batch-norm needs two); the order is a stream of permutations, so every batch is full. With `full_batches` it is always `batch_size`, for which
    few images are repeated, each time with another augmentation. `early_stop` is a patience in validations (one every
    `validate_every` steps); `best_checkpoint` keeps the weights with the best validation accuracy (ties: lowest loss).
    `ema` is the decay, a step, of an exponential moving average of the weights, which is then what is validated and kept.
    `precision` "auto" is bf16 on CUDA and fp32 elsewhere; `channels_last` null follows CUDA, and is for networks trained alone, as
    stacked weights have no such layout. Optimizers that have a fused version run it on CUDA by default.

    Rare classes: with `prior_bias` a new network's last linear layer starts with the log shares of the labels as its bias
    (each class with half a label more; zero under `class_weighting`). With `balanced_batches`
    every batch shows the labelled classes equally often, in the loss the log shares are subtracted from the logits, and so
    the network predicts the labels' shares all the same. Source: Menon et al. 2021, arXiv:2007.07314 (the adjusted loss).
    """

    added_options: ClassVar[Mapping[str, Any]] = {
        "full_batches": False,
        "ema": None,
        "prior_bias": False,
        "balanced_batches": False,
    }

    def __init__(
        self,
        *,
        optimizer: Callable[..., torch.optim.Optimizer] = NESTEROV,
        lr: float = 0.05,
        epochs: int = 30,
        min_steps: int = 300,
        max_steps: int | None = None,
        batch_size: int = 64,
        full_batches: bool = False,
        schedule: Literal["cosine", "one_cycle", "constant"] = "cosine",
        warmup: float = 0.1,
        label_smoothing: float = 0.0,
        class_weighting: Literal["none", "balanced"] = "none",
        prior_bias: bool = False,
        balanced_batches: bool = False,
        augment: bool = True,
        early_stop: int | None = None,
        best_checkpoint: bool = False,
        validate_every: int = 50,
        warm_start: bool = False,
        gradient_clip: float | None = None,
        ema: float | None = None,
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
        expect(
            ema is None or 0 < ema < 1,
            f"Expected trainer.ema between 0 and 1 or null, got {ema}; 0.99 averages over 100 steps.",
        )
        expect(
            not balanced_batches or class_weighting == "none",
            f"Expected trainer.class_weighting=none with trainer.balanced_batches, got {class_weighting}; choose one of the two.",
        )
        self.optimizer, self.lr, self.schedule, self.warmup = optimizer, lr, schedule, warmup
        self.epochs, self.min_steps, self.max_steps, self.batch_size = epochs, min_steps, max_steps, batch_size
        self.full_batches = full_batches
        self.label_smoothing, self.class_weighting, self.augment = label_smoothing, class_weighting, augment
        self.prior_bias, self.balanced_batches = prior_bias, balanced_batches
        self.early_stop, self.best_checkpoint, self.validate_every = early_stop, best_checkpoint, validate_every
        self.warm_start, self.gradient_clip, self.ema = warm_start, gradient_clip, ema
        self.precision, self.channels_last, self.compile = precision, channels_last, compile

    @property
    def validation_rules(self) -> tuple[str, ...]:  # type: ignore[override]
        rules = {"early_stop": self.early_stop is not None, "best_checkpoint": self.best_checkpoint}
        return tuple(name for name, is_used in rules.items() if is_used)

    def n_steps(self, n: int) -> int:
        """Optimizer steps for `n` labelled images."""
        steps = max(self.epochs * math.ceil(n / self.batch_size), self.min_steps)
        return min(steps, self.max_steps or steps)

    @torch.no_grad()
    def begin(self, network: nn.Module, examples: Examples, n_classes: int) -> None:
        layers = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == n_classes]
        if self.prior_bias and layers and layers[-1].bias is not None:
            if self.class_weighting == "none":
                layers[-1].bias.copy_(_log_shares(examples, n_classes))
            else:
                layers[-1].bias.zero_()

    def fit(self, network: nn.Module, lesson: Lesson, stream: Stream, cycles: Cycles | None = None) -> FitReport:
        """Train `network` in place and leave it in eval mode.

        Cycles share the number of steps (at least one step each, beyond max_steps if need be). Raises `TrainingError` when the
        loss is not finite.
        """
        return self._fit(network, lesson, [stream], cycles or Cycles())[0]

    def fit_together(self, networks: Sequence[nn.Module], lesson: Lesson, streams: Sequence[Stream]) -> list[FitReport]:
        """Train several networks of one architecture in the same steps, each on its own batches, and leave them in eval mode.

        The same as one `fit` after another up to rounding where nothing drops out (masks are drawn for all at once), and in
        float32 whatever `precision` says: torch.vmap follows autocast in some operations only.
        Raises `TrainingError` as `fit` does. Validation is not for them: see `needs_validation`.
        """
        together = Together(networks)
        reports = self._fit(together, replace(lesson, validation=None), streams, Cycles())
        together.release(networks)
        for network in networks:
            network.eval()
        return reports

    def _fit(self, network: nn.Module, lesson: Lesson, streams: Sequence[Stream], cycles: Cycles) -> list[FitReport]:
        """One fit of a network, or of several that are one module: then each stream is one member's."""
        pixels, examples, prepare = lesson.pixels, lesson.examples, lesson.prepare
        validation = lesson.validation if self.needs_validation else None
        device, members = pixels.device, len(streams)
        if members == 1 and (self.channels_last or (self.channels_last is None and device.type == "cuda")):
            network.to(memory_format=torch.channels_last)
        forward = torch.compile(network) if self.compile else network
        steps = max(self.n_steps(len(examples)), cycles.count)
        batch = self.batch_size if self.full_batches else min(self.batch_size, max(len(examples), 2))
        optimizer = self._optimizer(network, device)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self._lr_factor(step, steps, cycles.count)
        )
        average = Average(network, self.ema) if self.ema else None
        weight = self._class_weight(examples, lesson.n_classes, device)
        dtype = self.dtype(device) if members == 1 else torch.float32
        scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        strata = _classes(examples).unique(return_inverse=True)[1] if self.balanced_batches else None
        order = torch.stack([_order(len(examples), steps * batch, stream("order"), strata) for stream in streams])
        offset = _log_shares(examples, lesson.n_classes).to(device) if self.balanced_batches else None
        order, rows = order.to(pixels.place), examples.rows.to(pixels.place)
        labels = examples.truth.to(pixels.place)
        augment = lesson.augment if self.augment else None
        draws = [stream("augment") for stream in streams]
        ends = {math.ceil(steps * cycle / cycles.count) for cycle in range(1, cycles.count + 1)}
        best = Best()
        recent: list[Tensor] = []

        network.train()
        samples = pixels.stream(rows[order[:, at : at + batch].flatten()] for at in range(0, steps * batch, batch))
        with scoped(streams[0]("dropout")):
            for step in progress(range(1, steps + 1), lesson.description, enabled=bool(lesson.description)):
                raw = next(samples)
                if augment:
                    raw = torch.cat([augment(part, draw) for part, draw in zip(raw.split(batch), draws, strict=True)])
                y = labels[order[:, (step - 1) * batch : step * batch]].to(device, non_blocking=True)
                with _autocast(device, dtype):
                    logits = forward(prepare(raw)).float().unflatten(0, (members, batch))
                logits = logits if offset is None else logits - offset
                losses = torch.stack([self._loss(*one, weight) for one in zip(logits, y, strict=True)])
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(losses.sum()).backward()
                if self.gradient_clip is not None:
                    scaler.unscale_(optimizer)
                    _clip(network, self.gradient_clip, members)
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                if average is not None:
                    average.update(network)
                recent.append(losses.detach())
                if len(recent) == LOSS_CHECK_STEPS or step == steps:
                    mean_losses = _finite_means(recent, step, self.lr)
                    recent.clear()
                if step in ends:
                    cycles.at_end()
                if validation is not None and (step % self.validate_every == 0 or step == steps):
                    candidate = network if average is None else average.network
                    best.update(step, *self.validate(candidate, pixels, validation, prepare), candidate)
                    network.train()
                    if self.early_stop is not None and best.misses >= self.early_stop:
                        break
        if recent:
            mean_losses = _finite_means(recent, step, self.lr)
        keep_best = self.best_checkpoint and best.weights is not None
        if average is not None:
            network.load_state_dict(average.network.state_dict())
        if keep_best:
            network.load_state_dict(best.weights or {})
        network.eval()
        return [FitReport(step, loss, best.step if keep_best else step, best.accuracy) for loss in mean_losses]

    @torch.no_grad()
    def validate(self, network: nn.Module, pixels: Pixels, examples: Examples, prepare: Prepare) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean loss in nats on `examples`, in eval mode."""
        network.eval()
        correct = loss = 0.0
        for rows, labels in zip(examples.rows.split(512), examples.labels.split(512), strict=True):
            with _autocast(pixels.device, self.dtype(pixels.device)):
                logits = network(prepare(pixels.take(rows))).float()
            labels = labels.to(pixels.device)
            correct += float((logits.argmax(1) == labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
        return correct / len(examples), loss / len(examples)

    def _optimizer(self, network: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """The optimizer over the parameters that are not frozen; on CUDA in its fused version where it has one.

        On a CPU the fused versions of torch 2.14 are no faster.
        """
        options: dict[str, Any] = {"lr": self.lr}
        given = {key for key, value in getattr(self.optimizer, "keywords", {}).items() if value is not None}
        if device.type == "cuda" and "fused" in inspect.signature(self.optimizer).parameters:
            options |= {} if given & {"fused", "foreach"} else {"fused": True}
        return self.optimizer([weights for weights in network.parameters() if weights.requires_grad], **options)

    def _loss(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        """Mean over the batch, weighted; `labels` int64 [b] or soft [b, c]. Soft labels of a single 1 give what labels give."""
        loss = partial(cross_entropy, logits, labels, weight=weight, label_smoothing=self.label_smoothing)
        if weight is None or not labels.is_floating_point():
            return loss()
        # torch divides by the weights of the images where they have labels, and by their number where these are soft
        return loss(reduction="sum") / (labels @ weight).sum()

    def dtype(self, device: torch.device) -> torch.dtype:
        auto = "bf16" if device.type == "cuda" else "fp32"
        name = auto if self.precision == "auto" else self.precision
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]

    def _class_weight(self, examples: Examples, n_classes: int, device: torch.device) -> Tensor | None:
        """Inverse class frequency with mean 1 over the images; classes not seen yet weigh nothing.

        Soft labels count by their parts; a class whose parts come to less than one image weighs as if it had one.
        """
        if self.class_weighting == "none":
            return None
        labels, soft = examples.labels, examples.soft_labels
        counts = torch.bincount(labels, minlength=n_classes).float() if soft is None else soft.sum(dim=0)
        weight = torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp_min(1)), 0.0)
        return weight.to(device)

    def _lr_factor(self, step: int, steps: int, cycles: int = 1) -> float:
        """Learning rate as a share of `lr`: linear warm-up, then cosine or linear (one-cycle) to zero, or constant.

        `cycles` of equal length, each with the whole schedule.
        """
        cycle = min(step * cycles // steps, cycles - 1)
        first = math.ceil(steps * cycle / cycles)
        step, steps = step - first, math.ceil(steps * (cycle + 1) / cycles) - first
        if self.schedule == "one_cycle":
            peak = max(1.0, max(self.warmup, 0.2) * steps)
            return (step + 1) / peak if step + 1 < peak else max(steps - step, 0) / max(steps - peak + 1, 1.0)
        warm = self.warmup * steps
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _classes(examples: Examples) -> Tensor:
    """The class of each image, int64 [n]: the likeliest where it has probabilities of classes."""
    return examples.labels if examples.soft_labels is None else examples.soft_labels.argmax(dim=1)


def _log_shares(examples: Examples, n_classes: int) -> Tensor:
    """Log of the share of each class in the labels, float32 [c], each class with half a label more."""
    soft = examples.soft_labels
    counts = torch.bincount(examples.labels, minlength=n_classes) if soft is None else soft.sum(dim=0)
    return (counts.float() + 0.5).log() - (counts.sum() + 0.5 * n_classes).log()


def _order(n: int, length: int, generator: torch.Generator, strata: Tensor | None = None) -> Tensor:
    """`length` row numbers: one permutation of `n` after another, so that all rows are seen equally often.

    With `strata` (int64 [n], numbered from 0) each stratum is taken equally often, and its own rows are.
    """
    if strata is not None:
        order = torch.empty(length, dtype=torch.int64)
        turns = _order(int(strata.max()) + 1, length, generator)
        for stratum in range(int(strata.max()) + 1):
            rows, places = (strata == stratum).nonzero()[:, 0], turns == stratum
            order[places] = rows[_order(len(rows), int(places.sum()), generator)]
        return order
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(max(1, math.ceil(length / n)))])[:length]


def _clip(network: nn.Module, norm: float, members: int) -> None:
    """Scale the gradients down to `norm`, those of each member by their own norm."""
    if members == 1:
        nn.utils.clip_grad_norm_(network.parameters(), norm)
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (norm / (norms + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def _finite_means(losses: list[Tensor], step: int, lr: float) -> list[float]:
    means = torch.stack(losses).mean(dim=0).tolist()
    for mean in means:
        if not math.isfinite(mean):
            raise TrainingError(
                f"Expected a finite training loss, got {mean} within the {len(losses)} steps before step {step}; "
                f"lower trainer.lr (now {lr}), set trainer.gradient_clip=1.0, or use trainer.precision=fp32."
            )
    return means
