"""What a part of an experiment declares about its options. The record and the config follow it without knowing any part."""

import inspect
import os
import pydoc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

PLAIN = (str, int, float, bool, list, type(None))
Change = Callable[[Any, Any], bool]
"""`change(old, new)`: whether a run may resume with the new value of an option."""


def anything(old: Any, new: Any) -> bool:
    """Any new value is allowed: the option does not affect completed rounds."""
    return True


def extended(old: Any, new: Any) -> bool:
    """A list that starts with the old one."""
    return isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old


def moved(old: Any, new: Any) -> bool:
    """Any other place of files whose content a run compares: where they lie is no part of what the run is."""
    return True


def is_place(value: Any) -> bool:
    """Whether an option that may also be a name, such as DEFAULT, or null, is a path."""
    return isinstance(value, str) and ("." in value or "/" in value)


def moved_file(old: Any, new: Any) -> bool:
    """Another place of a file, for such an option."""
    return is_place(old) and is_place(new)


class Part:
    """Base class of all parts with a config group: datasets, strategies, budgets, annotators and so on."""

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {}
    """Options that may change when a run resumes."""
    not_in_identity: ClassVar[frozenset[str]] = frozenset()
    """Options that cannot change a result: they are not stored and may differ between launches."""
    added_options: ClassVar[Mapping[str, Any]] = {}
    """Options added after the first version, each with the value that reproduces the earlier behaviour. A run folder
    without the option is treated as having that value, whatever the current default."""


def part_class(thing: object) -> type[Part]:
    """The class whose declarations apply to a part, or to the class that builds it; `Part` if it declares nothing."""
    kind = thing if isinstance(thing, type) else type(thing)
    return kind if issubclass(kind, Part) else Part


@dataclass(frozen=True)
class Declared:
    """The declarations of all parts of one experiment, with options by path, such as 'budget.rounds'.

    `count_validation`: whether validation images count as bought. `has_answers(folder)`: whether a run folder contains
    answers from people, so that it must not be deleted.
    """

    changeable: Mapping[str, Change] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    count_validation: bool = True
    has_answers: Callable[[Path], bool] = lambda folder: False

    def may_become(self, key: str, old: Any, new: Any) -> bool:
        """Whether a run may resume with the new value of the option."""
        return old == new or (key in self.changeable and self.changeable[key](old, new))


def locate(path: object) -> Any:
    """What a dotted path names, or None. The working folder is searched last: users keep classes of their own there."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return pydoc.locate(str(path)) if path else None
    except pydoc.ErrorDuringImport:
        return None


def constructor_defaults(thing: object) -> dict[str, Any]:
    """The plain defaults of what makes a part, by option."""
    try:
        parameters = inspect.signature(thing).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items() if isinstance(parameter.default, PLAIN)}


def before_added(makers: Mapping[str, object]) -> dict[str, Any]:
    """By path, what an option counts as in a folder without it: the value that equals the behaviour before it was added.

    `makers`: the class or function that makes the part of each group.
    """
    return {
        f"{group}.{key}": value
        for group, maker in makers.items()
        for key, value in {**constructor_defaults(maker), **part_class(maker).added_options}.items()
    }


def with_added(tree: Any) -> Any:
    """A config as plain values, every part of ours inside it with the options that were added since, as they were before."""
    if isinstance(tree, list):
        return [with_added(item) for item in tree]
    if not isinstance(tree, Mapping):
        return tree
    return {**_added(tree), **{key: with_added(value) for key, value in tree.items()}}


def added_in(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The same options by path, of the parts inside the mappings of `tree`."""
    found: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= {f"{path}.{option}": before for option, before in _added(value).items()} | added_in(
                value, f"{path}."
            )
    return found


def _added(node: Mapping[str, Any]) -> Mapping[str, Any]:
    target = str(node.get("_target_"))
    return part_class(locate(target)).added_options if target.startswith("alframe.") else {}


def declared(
    parts: Mapping[str, object],
    added: Mapping[str, Any] | None = None,
    changes: Mapping[str, Change] | None = None,
    **options: Any,
) -> Declared:
    """The declarations of `parts`, by config group, with more `changes`. `added` and `options` are the other fields of `Declared`."""
    own = {
        f"{group}.{key}": change
        for group, part in parts.items()
        for key, change in part_class(part).changeable_on_resume.items()
    }
    return Declared({**(changes or {}), **own}, added or {}, **options)
