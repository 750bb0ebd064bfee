"""Weights of a user's own from a file: state dicts as people save them, and what is wrong with others in one line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alframe.errors import ConfigError, DataError, did_you_mean

WEIGHT_FILES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "ema", "params")
"""Keys under which training scripts put a state dict beside the optimizer's state, the epoch and so on."""
SAVE_IT = "save its state dict: torch.save(model.state_dict(), 'weights.pth')"


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name: of a state dict, or of one inside a checkpoint. Nothing in the file is run.

    Raises ConfigError for a path that is no file, DataError for a file without a state dict.
    """
    if not path.is_file():
        near = path.parent.iterdir() if path.parent.is_dir() and not path.is_dir() else ()
        what = "a folder" if path.is_dir() else "which does not exist"
        hint = did_you_mean(path.name, (file.name for file in near), otherwise="; correct the path.")
        raise ConfigError(f"Expected model.weights to be the path of an existing file, got {path}, {what}{hint}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except SafetensorError as error:
        raise _other(path, f"a file that safetensors cannot read ({error})", "give a file of weights") from error
    except Exception as error:  # unpickling raises unrelated types
        raise _unread(path, error) from error
    state = _inside(found)
    if not state:
        kind = (
            f"{type(found).__name__} with {', '.join(map(str, list(found)[:3]))}"
            if isinstance(found, dict) and found
            else type(found).__name__
        )
        raise _other(path, f"no tensors by name but a {kind}", SAVE_IT)
    return state


def _unread(path: Path, error: BaseException) -> DataError:
    """Why torch does not read a file: a pickled object, or no file of torch at all."""
    name = re.search(r"(?:GLOBAL|class|global) ([\w.]+)", re.sub(r"\x1b\[[0-9;]*m", "", str(error)))
    if name is not None and "." in name[1]:
        return _other(path, f"a pickled {name[1]}, which runs code when it is read", SAVE_IT)
    if path.stat().st_size == 0:
        return _other(path, "an empty file", "copy it again")
    return _other(path, "a file that torch cannot read", "it may be cut off or of another kind; copy it again")


def _other(path: Path, got: str, advice: str) -> DataError:
    return DataError(f"Expected a state dict in {path}, got {got}; {advice}.")


def _inside(found: Any, depth: int = 0) -> dict[str, Tensor]:
    """The tensors of a mapping, or else of the first mapping of tensors below one of the `WRAPPERS`."""
    if not isinstance(found, Mapping) or depth > 2:
        return {}
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if tensors and len(tensors) == len(found):
        return tensors
    below = (_inside(found[key], depth + 1) for key in WRAPPERS if key in found)
    return next((state for state in below if state), {} if depth == 0 and len(tensors) < 2 else tensors)


def load_weights(model: nn.Module, name: str, path: Path) -> None:
    """Load the file into `model`, whose last linear layer may be missing in it, or be for other classes; it is replaced later.

    A prefix that all names share (`module.`, `model.`, `backbone.`) is removed. Raises DataError for weights of another model.
    """
    state, own = read_state(path), model.state_dict()
    prefixes = {"", *(key[: dot.end()] for key in state for dot in re.finditer(r"\.", key))}
    prefix = max(sorted(prefixes, key=len), key=lambda each: sum(each + key in state for key in own))
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    last = f"{linear[-1]}." if linear else ""
    needed = {
        key: value
        for key, value in own.items()
        if not (last and key.startswith(last)) and not key.endswith("num_batches_tracked")
    }
    missing = [key for key in needed if key not in found]
    other = [key for key in needed if key in found and found[key].shape != needed[key].shape]
    if missing or other:
        first = (missing or other)[0]
        wrong = f"{len(missing)} of its {len(needed)} tensors missing" if missing else f"{len(other)} of another shape"
        beside = next((key for key in found if key not in own), "")
        if other and not missing:
            detail = f"{first} is {list(found[first].shape)} instead of {list(needed[first].shape)}"
        else:
            detail = f"the first: {first}" + (f"; it has {beside}" if beside else "")
        raise DataError(
            f"Expected {path} to hold the state dict of {name}, got {wrong} ({detail}); give the file that belongs to the model."
        )
    model.load_state_dict(
        {key: found[key] for key in own if key in found and found[key].shape == own[key].shape}, strict=False
    )
