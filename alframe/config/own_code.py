"""A user's own classes in a config: `model=custom model._target_=mylab.Net`, or the `_target_` alone; and their errors."""

import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from alframe.config.schema import CONFIGS, GROUPS
from alframe.errors import did_you_mean

OWN = "custom"
"""The choice of a group that stands for a class of the user's."""


def with_own(words: Sequence[str]) -> list[str]:
    """The words of a command, with `model=custom` where they name the class of a model of their own without choosing one.

    Else the options of the default choice, which are another class's, would stay. Options of such a class need no `+`.
    """
    chosen = {word.split("=", 1)[0] for word in words}
    found = list(words)
    for group in GROUPS:
        key = f"{group}._target_="
        named = [word.lstrip("+").removeprefix(key) for word in words if word.lstrip("+").startswith(key)]
        has_own = (CONFIGS / group / f"{OWN}.yaml").is_file()
        if has_own and group not in chosen and any(name and not name.startswith("alframe.") for name in named):
            found.insert(next(i for i, word in enumerate(found) if word.lstrip("+").startswith(key)), f"{group}={OWN}")
        if f"{group}={OWN}" in found:
            found = [word for word in found if not word.startswith(f"~{group}.")]  # options of another class: not there
            known = (f"{group}._target_=", f"{group}._partial_=")
            inside = [word.startswith(f"{group}.") and not word.startswith(known) for word in found]
            found = [f"+{word}" if of_class else word for word, of_class in zip(found, inside, strict=True)]
    return found


def named_by_class(choices: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The choices, with the dotted name of the class where it is a user's own: what cells and studies are called by."""
    return {
        group: (tree[group] or {}).get("_target_") or choice if choice == OWN and group in tree else choice
        for group, choice in choices.items()
    }


def nearest_name(target: str) -> str:
    """`; did you mean 'mylab.Longest'?` for a dotted name that cannot be found, by the names beside it; empty if none is close."""
    module, _, name = target.rpartition(".")
    try:
        known = [each for each in dir(import_module(module)) if not each.startswith("_")]
    except Exception:  # no such module, or one that cannot be imported
        top, dot, rest = target.partition(".")
        hint = did_you_mean(top, (path.stem for path in Path.cwd().iterdir() if path.suffix == ".py" or path.is_dir()))
        return hint.replace("'?", f"{dot}{rest}'?") if top not in hint else ""
    return did_you_mean(name, known).replace("mean '", f"mean '{module}.")


def blame(error: BaseException) -> str:
    """Where in a user's own file an error came from, `mylab.py, line 7, in select`; empty if it came from a library or from alframe."""
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    ours = Path(__file__).parent.parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(ours) or not path.is_absolute():
            return ""
        if not any(path.is_relative_to(library) for library in libraries):
            return f"{path.name}, line {frame.lineno}, in {frame.name}"
    return ""
