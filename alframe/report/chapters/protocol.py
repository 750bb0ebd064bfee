"""Protocol checks: what a reviewer would object to in a comparison, each a named warning that says what to do."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from alframe.record.layout import LEDGER, PROVENANCE
from alframe.record.read import flat
from alframe.report.chapters import comparable
from alframe.report.chapters.blocks import Chapter, Paragraph
from alframe.report.chapters.comparable import ProtocolWarning, Study, as_yaml, first_few, grouped, with_folders
from alframe.report.chapters.phrases import counted
from alframe.report.read.comparison import LeftOut
from alframe.report.read.run import Run
from alframe.report.read.section import Section
from alframe.report.statistics.paired import MIN_SEEDS

ENOUGH_SEEDS = 5
"""With fewer, a test shows only large differences."""
MIN_DUPLICATE_SHARE = 0.001
"""Of the test images. Fewer near-duplicates than this change a test metric by less than its third decimal."""
BY_ITSELF = ("test-used-for-selection", "near-duplicates")
"""The checks that say something of a run that nothing is compared with."""
DECIDING = ("trainer", "budget", "uncertainty")
"""The config groups with options that stop training or a run, or choose a model."""


def warnings(sections: Sequence[Section], left: Sequence[LeftOut]) -> list[ProtocolWarning]:
    """The warnings about `sections`, in the order of `CHECKS`; reads ledger and provenance of every run used.

    A single run that people labelled is compared with nothing: only what concerns each run by itself is checked.
    """
    compared = [section for section in sections if not section.is_one_by_people]
    studies = {name: Study(sections if name in BY_ITSELF else compared, left) for name in CHECKS}
    return [
        warning
        for name, check in CHECKS.items()
        for warning in (check(studies[name]) if studies[name].sections else ())
    ]


def chapter(found: Sequence[ProtocolWarning]) -> Chapter:
    """The warnings as paragraphs; without any, one line with the checks that passed."""
    if not found:
        passed = ", ".join(name.replace("-", " ") for name in CHECKS)
        return Chapter("Protocol", (Paragraph(f"No warnings. Checked for: {passed}.", "good"),))
    paragraphs = [Paragraph(str(warning), "bad" if warning.serious else "warning") for warning in found]
    return Chapter("Protocol", tuple(paragraphs))


def _test_used(study: Study) -> Iterator[ProtocolWarning]:
    used = grouped((what, run.folder) for run in study.runs for what in _decided_on_test(run))
    if used:
        yield ProtocolWarning(
            "test-used-for-selection",
            f"Test data decided when to stop or which model to keep: {with_folders(used)}.",
            "Decide on validation data (budget.validation=0.2, budget.metric=validation/accuracy) and run again: these test metrics are too optimistic.",
            serious=True,
        )


def _decided_on_test(run: Run) -> list[str]:
    """Deciding options that name the test data, else reasons to stop that do."""
    options = flat({group: run.config.get(group) for group in DECIDING})
    if all(options.get(f"budget.{rule}") is None for rule in ("stop_at", "plateau")):
        options.pop("budget.metric", None)  # no stopping rule uses it
    found = []
    for key, value in options.items():
        named = isinstance(value, str) and (value == "test" or value.startswith("test/"))
        asked = value is True and "test" in key.rsplit(".", 1)[-1].split("_")
        if named or asked:
            found.append(f"{key}={as_yaml(value)}")
    reasons = [str(line["stopped"]) for line in run.rounds if line.get("stopped")]
    return found or [f"stopped because {reason}" for reason in reasons if reason.startswith("test/")]


def _near_duplicates(study: Study) -> Iterator[ProtocolWarning]:
    seen = set()
    for run in study.runs:
        found, n_test = run.evidence.near_duplicates, run.evidence.n_test
        if not found or run.data_hash in seen:
            continue
        seen.add(run.data_hash)
        exact, near = (n if isinstance(n := found.get(key), int) else 0 for key in ("exact", "near"))
        examples = examples if isinstance(examples := found.get("examples"), list) else []
        pairs = [f"{one[0]} and {one[1]}" for one in examples if isinstance(one, list) and len(one) >= 2]
        if exact + near > MIN_DUPLICATE_SHARE * (n_test or 0):
            share = f" ({100 * (exact + near) / n_test:.1f} % of {n_test:,})" if n_test else ""
            yield ProtocolWarning(
                "near-duplicates",
                f"{run.dataset}: {exact + near:,} test images{share} are in the pool too, {exact:,} identical and {near:,} nearly so"
                + (f" (test and pool image {first_few(pairs)})." if pairs else "."),
                "Remove them from the pool, or split by object, part or batch: a strategy that buys them looks better than it is.",
            )


def _seeds(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        n_seeds = {
            name: len(set(seeds) & set(section.cells[section.baselines[name]]) if name in section.baselines else seeds)
            for name, seeds in section.cells.items()
        }
        least = min(n_seeds.values())
        few = [name for name, n in n_seeds.items() if n == least]
        count = f"{first_few(few) if len(few) < len(n_seeds) else 'every strategy'}: {counted(least, 'seed')}"
        if least < MIN_SEEDS:
            yield ProtocolWarning(
                "too-few-seeds",
                f"{section.title}, {count} in common with the baseline; with fewer than {MIN_SEEDS} nothing can be tested.",
                "Run the same sweep with seed=0,1,2,3,4; finished cells are left alone.",
                serious=True,
            )
        elif least < ENOUGH_SEEDS:
            yield ProtocolWarning(
                "few-seeds",
                f"{section.title}, {count} in common with the baseline, enough to show only large differences.",
                f"Run at least {ENOUGH_SEEDS} seeds: seed=0,1,2,3,4.",
            )


def _unequal_seeds(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        by_seeds = grouped((" ".join(map(str, sorted(seeds))), name) for name, seeds in section.cells.items())
        if len(by_seeds) > 1:
            listed = "; ".join(f"seeds {seeds} in {first_few(names)}" for seeds, names in by_seeds.items())
            yield ProtocolWarning(
                "unequal-seeds",
                f"{section.title}: cells have different seeds: {listed}.",
                "Run the missing seeds with the same command; means over different seeds differ by chance, and paired tests use the common seeds only.",
            )


def _label_grids(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        measured = (
            [line["labels"] for line in run.rounds if line.get(section.metric) is not None] for run in section.runs
        )
        grids = grouped((tuple(labels), run.folder) for run, labels in zip(section.runs, measured, strict=True))
        if len(grids) > 1:
            every = sorted({labels for grid in grids for labels in grid})
            lacks = {grid: [f"{n:,}" for n in every if n not in grid] for grid in grids}
            shown = {grid: f"not at {first_few(of)}" if of else f"at all {len(every)}" for grid, of in lacks.items()}
            lacking = {shown[grid]: folders for grid, folders in grids.items()}
            yield ProtocolWarning(
                "unequal-label-grids",
                f"{section.title}: runs were measured at different label counts: {with_folders(lacking)}.",
                "Finish the runs that ended early, or run without stopping rules. Until then only the common range is compared, "
                "and values between counts are interpolated.",
            )


def _growing_pools(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        grows = [str(run.folder) for run in section.runs if run.evidence.grows]
        if grows and len(section.runs) > 1:
            yield ProtocolWarning(
                "growing-pools",
                f"{section.title}: new photos could enter the pools of {counted(len(grows), 'run')} while they ran: {first_few(grows)}.",
                "Compare on a folder that does not change: runs of different days did not choose from the same photos.",
            )


def _no_test_images(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        without = [str(run.folder) for run in section.runs if run.evidence.n_test == 0]
        if without and len(section.runs) > 1:
            yield ProtocolWarning(
                "no-test-images",
                f"{section.title}: {counted(len(without), 'run')} had no test images. Each was measured on its own validation images, "
                f"drawn from what its strategy had left: {first_few(without)}.",
                "Put labelled photos into test/<class> and run again, to get comparable metrics.",
            )


def _failed_cells(study: Study) -> Iterator[ProtocolWarning]:
    failed = [f"{item.folder}: {item.reason.removeprefix('failed: ')}" for item in study.left if item.failed]
    if failed:
        yield ProtocolWarning(
            "failed-cells",
            f"{counted(len(failed), 'cell')} failed: {first_few(failed, '; ')}.",
            "Mend the cause and run the same command again: those that survived are a biased choice, such as the seeds that drew a defect.",
            serious=True,
        )


def _left_out(study: Study) -> Iterator[ProtocolWarning]:
    used = {run.folder for section in study.sections for run in section.runs}
    left = [item for item in study.left if item.folder not in used and not item.failed]
    if left:
        listed = first_few([f"{item.folder}: {item.reason}" for item in left], "; ")
        yield ProtocolWarning(
            "runs-left-out",
            f"{counted(len(left), 'run folder')} not in the comparison: {listed}.",
            "Finish them with the command that started them, or say why they are left out: runs that are missing for a reason bias the mean.",
        )


def _missing_evidence(study: Study) -> Iterator[ProtocolWarning]:
    missing = grouped(
        (what, run.folder)
        for run in study.runs
        for what, is_missing in (
            (f"no readable {LEDGER} (initial sets)", run.evidence.initial is None),
            (f"no launches in {PROVENANCE} (versions, devices)", not (run.evidence.versions and run.evidence.devices)),
            (f"no data hash in {PROVENANCE} (test sets)", not run.data_hash),
            ("never searched for near-duplicates", not run.evidence.searched_for_duplicates),
        )
        if is_missing
    )
    if missing:
        yield ProtocolWarning(
            "missing-evidence",
            f"Not everything could be checked: {with_folders(missing)}.",
            "Copy whole run folders; what older versions did not record stays unknown until the runs are repeated.",
        )


CHECKS: dict[str, Callable[[Study], Iterable[ProtocolWarning]]] = {
    "test-used-for-selection": _test_used,
    "different-initial-sets": comparable.initial_sets,
    "different-test-sets": comparable.test_sets,
    "different-budgets": comparable.budgets,
    "mixed-count-validation": comparable.validation_counted,
    "different-recipes": comparable.recipes,
    "different-versions": comparable.versions,
    "different-devices": comparable.devices,
    "near-duplicates": _near_duplicates,
    "too-few-seeds": _seeds,
    "unequal-seeds": _unequal_seeds,
    "unequal-label-grids": _label_grids,
    "growing-pools": _growing_pools,
    "no-test-images": _no_test_images,
    "failed-cells": _failed_cells,
    "runs-left-out": _left_out,
    "missing-evidence": _missing_evidence,
}
"""By the first warning name that each can yield."""
