"""What each run of a comparison bought, by its ledger."""

from typing import Any

from alframe.report.read.section import Section

Bought = dict[str, dict[int, list[dict[str, Any]]]]
"""The ledger's answers by cell and seed, in the order of asking."""


def purchases(section: Section) -> Bought:
    """What each run bought up to the last label count of the section; runs whose ledger holds less than that are not in it."""
    found: Bought = {}
    for name, seeds in section.cells.items():
        for seed, run in seeds.items():
            lines = run.bought(section.range[1])
            claimed = max((line["labels"] for line in run.rounds if line["labels"] <= section.range[1]), default=0)
            if lines and len(lines) >= claimed:
                found.setdefault(name, {})[seed] = lines
    return found


def class_name(section: Section, label: int) -> str:
    """The class as the run folder names it, else its number."""
    classes = section.runs[0].classes
    return classes[label] if 0 <= label < len(classes) else f"class {label}"
