"""The choices of every config group, each with the comment at the top of its YAML file: a part of `alframe --help`."""

import re
import textwrap
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

GROUPS = (
    *("dataset", "model", "uncertainty", "strategy", "budget", "annotator", "trainer", "trainer/optimizer", "shift"),
    *("experiment", "debug"),
)
WIDTH, INDENT = 110, 24


def choices() -> str:
    """One paragraph for each group: its name, then a line for each choice, those of the user's own folders too."""
    return "\n\n".join("\n".join([f"{group}:", *_lines(group)]) for group in GROUPS)


def _lines(group: str) -> Iterator[str]:
    for name, path in sorted(_files(group).items()):
        head = f"  {name:<{INDENT - 4}}  "
        yield textwrap.fill(f"{head}{comment(path)}", WIDTH, subsequent_indent=" " * INDENT, break_long_words=False)


def _files(group: str) -> dict[str, Path]:
    """The YAML files of a group by choice; where two folders have the same, Hydra takes the first."""
    found: dict[str, Path] = {}
    for source in reversed(GlobalHydra.instance().config_loader().get_search_path().get_path()):
        path = str(source.path)
        if path.startswith("pkg://"):
            place = path.removeprefix("pkg://")
            folder = None if place.startswith("hydra.") else Path(str(files(place.replace("/", "."))))
        else:
            folder = None if path.startswith("structured://") else Path(path.removeprefix("file://"))
        if folder is not None:
            found |= {path.stem: path for path in (folder / group).glob("*.yaml")}
    return found


def comment(path: Path) -> str:
    """The first sentence of the comment that a YAML file starts with, without an example of a command."""
    text = re.match(r"(?:[ \t]*(?:#.*)?\n)*", path.read_text(encoding="utf-8") + "\n")
    lines = [line.lstrip("# ").rstrip() for line in (text[0] if text else "").splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith(("@package", "alframe ")))
    return re.split(r"(?<=[a-z\d)/`])[.;](?=\s+[A-Z]|$)", said, maxsplit=1)[0]
