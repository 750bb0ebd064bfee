"""What is needed beside the weights to predict as the run did: plain values in the header of the weights file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import import_module
from typing import Any

from alframe import __version__
from alframe.errors import ConfigError, DataError

FORMAT = 1
STRETCH, SAME = "stretch", "same"


@dataclass(frozen=True)
class Spec:
    """`classes` in the order of the outputs; `shape` (channels, height, width) of the uint8 input images.

    `resize`: "stretch" (any size is stretched to `shape` with PIL's bilinear filter) or "same" (other sizes are rejected).
    `normalization` is "pool" (tensors `front.mean` and `front.deviation`, per channel or per feature of the trunk),
    "image" or "none", as in `Normalizer`. `model`, `uncertainty` and `augmentation` are a class (`_target_`) with options.
    `normal`: the classes that are no defects, or None if unknown.
    `on_features`: the networks read features of the model's frozen trunk. `run` describes the original run.
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


def describe(part: object) -> dict[str, Any]:
    """The class and the options of a dataclass of plain values. Raises `ConfigError` for anything else."""
    if not is_dataclass(part) or isinstance(part, type):
        raise ConfigError(
            f"Expected an augmentation that is a dataclass, to export it with uncertainty=tta, got {type(part).__name__}; make it a dataclass."
        )
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **asdict(part)}


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
        raise ConfigError(f"Expected the class of a {what}, got '{target}'; only classes can be exported.")
    return thing, {key: value for key, value in node.items() if not key.startswith("_")}
