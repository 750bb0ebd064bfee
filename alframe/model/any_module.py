"""Any `nn.Module` as a network: what comes before its last linear layer is the embedding, that layer the head."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alframe.errors import AlframeError, ConfigError
from alframe.model.base import Network

CLASSES = ("n_classes", "num_classes", "n_outputs", "num_outputs", "num_labels", "out_features", "classes")
SHAPES = ("shape", "input_shape", "image_shape", "in_shape")
CHANNELS = ("in_channels", "in_chans", "n_channels", "num_channels", "channels")
SIDES = ("image_size", "img_size", "input_size")
"""What a constructor may call the number of classes, the shape (channels, height, width), its first number, and its last two."""


def network_of(build: Callable[..., Any], shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The network that `build` makes: one of ours as it is, any other module as an `AnyModule`.

    `build` is called as `build(shape, n_classes)` if it makes a `Network`, or takes arguments of these names; else with what it
    calls the classes, shape, channels and image size, and without those that it does not take. Raises ConfigError if it makes no
    module, or one that cannot be cut.
    """
    name = getattr(getattr(build, "func", build), "__name__", str(build))
    made = build(shape, n_classes) if is_ours(build) else build(**_arguments(build, shape, n_classes))
    if isinstance(made, nn.Module) and callable(getattr(made, "embed", None)) and callable(getattr(made, "head", None)):
        return made
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"Expected a torch.nn.Module from model {name}, got {type(made).__name__}; return the network."
        )
    return AnyModule(made, shape, n_classes)


def is_ours(build: Callable[..., Any]) -> bool:
    """Whether it takes (shape, n_classes) in this order, as networks and models of alframe do, whatever it calls them."""
    whole = build.func if isinstance(build, partial) else build
    if isinstance(whole, type) and issubclass(whole, Network):
        return True
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return True
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    by_place = len(needed) == 2 and (needed[0] in SHAPES or not {*needed} & {*CLASSES, *CHANNELS, *SIDES})
    return by_place or str(getattr(whole, "__module__", "")).startswith("alframe.")


def _arguments(build: Callable[..., Any], shape: tuple[int, ...], n_classes: int) -> dict[str, Any]:
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(build).parameters
    given = build.keywords if isinstance(build, partial) else {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    found: dict[str, Any] = {}
    sizes = (CLASSES, n_classes), (SHAPES, shape), (CHANNELS, shape[0]), (SIDES, shape[1:])
    for names, value in sizes:
        name = next((name for name in names if name in known), None)
        if name is not None and name not in given:
            needs_one = names is SIDES and "int" in str(parameters[name].annotation)
            found[name] = value[0] if needs_one else value  # type: ignore[index]
    if takes_any and not any(name in (*known, *given) for name in CLASSES):  # as torchvision's and timm's functions do
        found["num_classes"] = n_classes
    return found


class AnyModule(Network):
    """`module` cut before its last linear layer, which is called once, last, and gives the logits.

    A layer with another number of outputs than classes is replaced by a new one. Grey images are repeated to three channels
    where the module takes only those. Dropout stays where it is. Raises ConfigError for a module that does not end in such a
    layer, or does not run on one blank image.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        channels, path = _last_layer(module, shape)
        self.repeats = channels != shape[0]
        last = module.get_submodule(path)
        assert isinstance(last, nn.Linear)
        fits = last.out_features == n_classes
        self.classifier = last if fits else nn.Linear(last.in_features, n_classes, last.bias is not None)
        parent, _, leaf = path.rpartition(".")
        setattr(module.get_submodule(parent), leaf, nn.Identity())
        self.module = module

    def embed(self, x: Tensor) -> Tensor:
        h: Tensor = self.module(x.expand(-1, 3, -1, -1) if self.repeats else x)
        return h

    def head(self, h: Tensor) -> Tensor:
        logits: Tensor = self.classifier(h)
        return logits


def _last_layer(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, str]:
    """The number of channels that `module` takes, and the path of the linear layer whose output it returns."""
    name, why = type(module).__name__, ""
    for channels in dict.fromkeys((shape[0], 3 if shape[0] == 1 else shape[0])):
        try:
            called, output = _called(module, torch.zeros(1, channels, *shape[1:]))
            break
        except AlframeError:
            raise
        except Exception as error:
            why = why or f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    else:
        raise ConfigError(
            f"Expected model {name} to run on images of shape {tuple(shape)} (channels, height, width), got {why}; "
            "resize the images with dataset.size, or take that shape in its constructor."
        )
    how = "let forward return what its last torch.nn.Linear gives, or add methods embed(x) and head(h)"
    if not called:
        raise ConfigError(f"Expected model {name} to end in a linear layer (torch.nn.Linear), got none; {how}.")
    path, logits = called[-1]
    if not isinstance(output, Tensor) or output.shape != logits.shape or not torch.equal(output, logits):
        what = f"more after it ({path})" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ConfigError(f"Expected model {name} to return what its last linear layer gives, got {what}; {how}.")
    if sum(one == path for one, _ in called) > 1:
        raise ConfigError(
            f"Expected the last linear layer of model {name} to be used once, got {path} used more often; {how}."
        )
    return channels, path


@torch.no_grad()
def _called(module: nn.Module, x: Tensor) -> tuple[list[tuple[str, Tensor]], Any]:
    """The linear layers that `module` calls for `x`, in order, with what each gives; and what the module gives."""
    called: list[tuple[str, Tensor]] = []

    def watch(path: str) -> Callable[..., None]:
        return lambda _, inputs, output: called.append((path, output.clone()))

    hooks = [
        one.register_forward_hook(watch(path)) for path, one in module.named_modules() if isinstance(one, nn.Linear)
    ]
    training = {one: one.training for one in module.modules()}
    try:
        return called, module.eval()(x)
    finally:
        for one, was in training.items():
            one.training = was
        for hook in hooks:
            hook.remove()
