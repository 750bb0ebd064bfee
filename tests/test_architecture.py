"""Imports point one way; configs stay above; randomness has names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "alframe"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
TIERS = [
    {"types", "errors", "rng", "part", "images", "names", "pixels", "console", "clock", "area", "verbs"},
    {"record.layout", "record.files", "record.failure", "record.read", "labels.consensus", "labels.tally"},
    {"scores", "metrics", "engine", "labels.ledger", "dataset.cache", "dataset.decode"},
    {"dataset", "model", "trainer", "uncertainty", "strategy", "budget", "labels", "annotator"},
    {"learner", "record"},
    {"query"},
    {"experiment"},
    {"questions", "checks", "restore"},
    {"session"},
    {"loop"},
    {"api", "config"},
    {"handover"},
    {"cli", "annotator.cli", "handover.cli"},
    {"__main__"},
]
"""Rooms by what they may import: what stands further up. A file that lies deeper than its room has a line of its own."""


def dotted(path: Path) -> str:
    """'record/files.py' -> 'record.files'"""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


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
    """Of a module by its dotted name below the package: that of the longest prefix that has one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for number, rooms in enumerate(TIERS):
            if prefix in rooms:
                return number
    raise AssertionError(f"{name} is in no room: give it a line in TIERS")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = dotted(path)
    used = {name.removeprefix("alframe.") for name in imports(path) if name.startswith("alframe.")}
    if room(path) == "report":  # stands apart and reads files
        others = {name for name in used if not name.startswith("report.")}
        assert others <= {
            "errors",
            "area",
            "console",
            "verbs",
            "labels.consensus",
            "labels.tally",
            "record.failure",
            "record.layout",
            "record.files",
            "record.read",
        }
        return
    for other in used:
        if mine == "cli" and other.startswith("report"):
            continue
        same_room = other.split(".")[0] == room(path)
        assert tier(other) < tier(mine) or (tier(other) == tier(mine) and (same_room or tier(mine) == 0)), (
            f"{mine} may not import {other}"
        )


def test_the_rooms_of_the_report_point_one_way():
    order = ("statistics", "read", "chapters", "write", "cli")
    for path in (path for path in FILES if room(path) == "report"):
        mine = path.relative_to(PACKAGE).parts[1].removesuffix(".py")
        used = {name.split(".")[2] for name in imports(path) if name.startswith("alframe.report.")}
        assert all(order.index(other) <= order.index(mine) for other in used), f"{path}: {used}"
        assert "alframe.report" not in imports(path), f"{path}: name the room"


def test_only_configs_know_hydra():
    users = {
        room(path) for path in FILES if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(path))
    }
    assert users == {"config"}


def test_only_the_boards_know_tensorboard():
    knows = ("tensorboard.", "torch.utils.tensorboard")
    users = {path.name for path in FILES if any(name.startswith(knows) for name in imports(path))}
    assert users == {"tensorboard.py"}


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


FILE_NAMES = re.compile(
    r"config\.yaml|provenance\.json|ledger\.jsonl|rounds\.jsonl|pool\.jsonl|pool\.bin|stages\.json|stages\.png|operators\.txt|trace\.json"
)
IN_PATHS = re.compile(
    FILE_NAMES.pattern + r"|^(\.discarding|\.lock|round_|queries|checkpoint|tensorboard|profile|initial\.json)$"
)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a file but docstrings; of f-strings the parts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def paths(path: Path) -> Iterator[tuple[int, str]]:
    """Every string that is joined to a path by / or given to glob."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = [node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("glob", "rglob"):
            parts = node.args
        for part in parts:
            for inner in ast.walk(part):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.lineno, inner.value


def test_only_the_record_spells_the_file_names_of_a_run_folder():
    """Plain words, such as profile, are looked for where they make a path."""
    found = []
    for path in FILES:
        if room(path) == "record":
            continue
        found += [(dotted(path), *hit) for hit in strings(path) if FILE_NAMES.search(hit[1])]
        found += [(dotted(path), *hit) for hit in paths(path) if IN_PATHS.search(hit[1])]
    assert not found


def test_the_search_for_file_names_finds_them(tmp_path):
    """Or the test above could not fail."""
    path = tmp_path / "x.py"
    path.write_text('"""rounds.jsonl"""\nx = folder / "queries" / f"round_{n}.json"\ny = f"no {a}/rounds.jsonl"\n')
    assert {text for _, text in paths(path) if IN_PATHS.search(text)} == {"queries", "round_"}
    assert [text for _, text in strings(path) if FILE_NAMES.search(text)] == ["/rounds.jsonl"]
