"""Options through time: a run keeps the values that it began with, whatever the defaults have become since."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alframe.config.schema import CONFIGS, GROUPS, NOT_IN_IDENTITY, OPTIONAL_GROUPS, groups_of
from alframe.learner import POOL, TEST
from alframe.part import Part, constructor_defaults, is_place, locate, moved, part_class

INJECTED = {
    "model": {"shape", "n_classes"},
    "trainer.optimizer": {"params", "lr"},
}
"""What the loop passes to a part in addition to the values of its YAML."""
DERIVED = ("choices", "resolved")
"""Entries of a run's config that record how it came about: not options."""
Tree = dict[str, Any]


def located(node: Any) -> Callable[..., Any] | None:
    """The class or function that makes a part; None if it cannot be found, which is reported when it is to be built."""
    found = locate(node.get("_target_")) if isinstance(node, Mapping) else None
    return found if callable(found) else None


def part_classes(tree: Mapping[str, Any]) -> dict[str, type[Part]]:
    """What declares the options of each group of a composed config."""
    return {group: part_class(located(tree[group])) for group in groups_of(tree)}


def defaults(node: Mapping[str, Any], group: str) -> Tree:
    """The options of a part that its node leaves at the constructor's defaults."""
    injected = INJECTED.get(group, ())
    return {key: value for key, value in constructor_defaults(located(node)).items() if key not in injected}


def may_change(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """The paths of options that a run may be given other values of: they do not decide which folder it is in."""
    classes = part_classes(tree)
    declared = [
        f"{group}.{key}"
        for group, kind in classes.items()
        for key in (*kind.changeable_on_resume, *kind.not_in_identity)
    ]
    return (*NOT_IN_IDENTITY, *declared, *places(tree))


def places(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """The paths of the options of a composed config that say where files lie."""
    declared = [
        f"{group}.{key}"
        for group, kind in part_classes(tree).items()
        for key, change in kind.changeable_on_resume.items()
        if change is moved
    ]
    weights = ["model.weights"] if is_place((tree.get("model") or {}).get("weights")) else []
    target = ["query.target"] if tree["query"]["target"] not in (POOL, TEST) else []
    return (*declared, *weights, *target)


def given(overrides: Iterable[str]) -> set[str]:
    """The paths of the options that a command gives a value to. Chosen parts are none: a folder keeps the options of its own."""
    keys = [text.lstrip("+~").split("=", 1)[0] for text in overrides]
    return {key for key in keys if not (CONFIGS / key.split("@", 1)[0]).is_dir()}


def continued(tree: Tree, stored: Mapping[str, Any], options: set[str]) -> Tree:
    """The composed config `tree` as the run of the `stored` one continues with it: its values, but for the given `options`."""
    merged = {**tree, **dict.fromkeys(OPTIONAL_GROUPS)}
    for key, value in stored.items():
        if key in (*GROUPS, *OPTIONAL_GROUPS):
            merged[key] = _part(key, value, tree.get(key) or {}, options)
        elif isinstance(value, Mapping) and key not in DERIVED:
            merged[key] = tree.get(key, {}) | {
                name: one for name, one in value.items() if f"{key}.{name}" not in options
            }
        elif key not in options and key in tree:
            merged[key] = value
    return merged


def _part(group: str, stored: Any, now: Mapping[str, Any], options: set[str]) -> Any:
    """The node of a part: as it is stored, with the options that came since as they were before, and those that are given."""
    if not isinstance(stored, Mapping):
        return stored
    kind = part_class(located(stored))
    added = {key: value for key, value in kind.added_options.items() if key not in stored}
    node = {**stored, **added, **{key: now[key] for key in kind.not_in_identity if key in now}}
    for path in options:
        if path.startswith(f"{group}."):
            node = _replaced(node, now, path.split(".")[1:])
    return node


def _replaced(node: Any, now: Any, keys: list[str]) -> Any:
    """`node` with the value that `now` has under `keys`, or without it where `now` has none."""
    if not isinstance(node, Mapping) or not isinstance(now, Mapping):
        return now
    first, *rest = keys
    others = {key: value for key, value in node.items() if key != first}
    if first not in now:
        return others
    return {**others, first: _replaced(node.get(first), now[first], rest) if rest else now[first]}
