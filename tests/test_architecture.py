"""Imports point one way; configs stay above; randomness has names."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "alframe"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
TIERS = [
    {
        "types",
        "errors",
        "rng",
        "images",
        "pixels",
        "console",
        "area",
        "storage",
        "memory",
        "provenance",
        "stages",
        "contact_sheet",
        "consensus",
        "tally",
        "verbs",
    },
    {"scores", "metrics", "engine", "duplicates"},
    {"dataset", "model", "trainer", "uncertainty", "strategy", "annotator", "budget", "board"},
    {"learner", "pool"},
    {"profile"},
    {"query", "record", "reason"},
    {"experiment"},
    {"growth"},
    {"loop", "checks"},
    {"config"},
    {"handover"},
    {"cli", "queue_cli"},
    {"__main__"},
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def tier(name: str) -> int:
    return next(number for number, rooms in enumerate(TIERS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = room(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("alframe.")} - {mine}
    if mine == "report":  # stands apart and reads files
        assert used <= {"errors", "area", "console", "consensus", "tally"}
        return
    for other in used:
        if mine == "cli" and other == "report":
            continue
        assert tier(other) < tier(mine) or (tier(other) == tier(mine) == 0), f"{mine} may not import {other}"


def test_only_configs_know_hydra():
    users = {
        room(path) for path in FILES if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(path))
    }
    assert users == {"config"}


def test_only_the_boards_know_tensorboard():
    knows = ("tensorboard.", "torch.utils.tensorboard")
    users = {path.name for path in FILES if any(name.startswith(knows) for name in imports(path))}
    assert users == {"board.py", "tensorboard.py"}


def test_the_report_needs_no_torch():
    assert not [
        path for path in FILES if room(path) == "report" and any(n.split(".")[0] == "torch" for n in imports(path))
    ]


def test_no_randomness_from_the_air():
    globals_of = (
        "np.random.seed",
        "np.random.rand",
        "np.random.choice",
        "np.random.shuffle",
        "np.random.permutation",
        "random.seed",
    )
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not [name for name in globals_of if f"{name}(" in text], path
        assert "torch.manual_seed(" not in text or room(path) == "rng", path


def test_no_bare_except():
    for path in FILES:
        assert not [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ExceptHandler) and n.type is None
        ], path
