"""What a part of an experiment declares about its options; the record and the config obey, without knowing any part by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

Change = Callable[[Any, Any], bool]
"""`change(old, new)`: whether a run may go on with the new value of an option."""


def anything(old: Any, new: Any) -> bool:
    """Any value will do: the option decides nothing that was settled before."""
    return True


def greater(old: Any, new: Any) -> bool:
    """A larger number."""
    return old is not None and new is not None and bool(new > old)


def extended(old: Any, new: Any) -> bool:
    """A list that begins with the old one."""
    return isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old


class Part:
    """Base of everything that a config group names: datasets, strategies, budgets, annotators and so on."""

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {}
    """Options that may get another value while a run goes on."""
    not_in_identity: ClassVar[frozenset[str]] = frozenset()
    """Options that cannot change a result: they are not stored, and may differ between launches."""
    added_options: ClassVar[Mapping[str, Any]] = {}
    """Options that came after the first version, each with the value that equals the behaviour before it. A run folder without
    the option counts as having that value, whatever the default is by now."""


def part_class(thing: object) -> type[Part]:
    """The declarations of a part, of its class or of what makes it; those of `Part` where it makes none."""
    kind = thing if isinstance(thing, type) else type(thing)
    return kind if issubclass(kind, Part) else Part


@dataclass(frozen=True)
class Declared:
    """What the parts of one experiment declare, options by their path such as 'budget.rounds'.

    `count_validation`: whether validation images count as bought. `has_answers(folder)`: whether people have answered
    anything in a run's folder, so that it must not be removed.
    """

    changeable: Mapping[str, Change] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    count_validation: bool = True
    has_answers: Callable[[Path], bool] = lambda folder: False

    def may_become(self, key: str, old: Any, new: Any) -> bool:
        """Whether a run may go on with the new value of the option."""
        return old == new or (key in self.changeable and self.changeable[key](old, new))


def declared(parts: Mapping[str, object], added: Mapping[str, Any] | None = None, **options: Any) -> Declared:
    """What `parts` declare, each under the name of its group. `added` and `options` are the other fields of `Declared`."""
    changeable = {
        f"{group}.{key}": change
        for group, part in parts.items()
        for key, change in part_class(part).changeable_on_resume.items()
    }
    return Declared(changeable, added or {}, **options)
