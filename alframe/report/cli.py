"""The `alframe-report` command: compares finished runs by their learning curves. Reads run folders only."""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from alframe.errors import ConfigError, ProtocolError, RunFolderError, expect
from alframe.record.layout import ROUNDS
from alframe.verbs import guarded


def main(argv: Sequence[str] | None = None, *, prog: str = "alframe-report") -> int:
    """Run the command; 0 if a report was written, 1 with one line on stderr if not."""

    def work() -> int:
        options = vars(_parser(prog).parse_args(argv))
        folders, out = options.pop("folders"), options.pop("out")
        summarize(folders, out or folders[0], **options)
        return 0

    return guarded(work)


def summarize(
    folders: Sequence[Path],
    out: Path,
    console: Console | None = None,
    *,
    strict: bool = False,
    tensorboard: bool = False,
    **options: Any,
) -> list[Path]:
    """Print the table of the runs in and below `folders`, and write the report into `out`; returns the files written.

    `options` are fields of `blocks.Options`; `tensorboard` also writes mean curves for TensorBoard. Raises `RunFolderError`
    if no run can be used or `out` cannot be written, `ConfigError` for an unknown metric or label counts that no comparison
    has. With `strict`, once everything is written, raises `ProtocolError` if a protocol check found something.
    """
    # scipy and matplotlib take a second to import, and --help or a mistyped folder should not wait for that
    from alframe.report.chapters.blocks import Options
    from alframe.report.read.section import sections

    console, chosen = console or Console(), Options(out=out, **options)
    compared, left = sections(folders, chosen.metric, chosen.baseline, chosen.unfinished)
    from alframe.report.chapters import protocol
    from alframe.report.chapters.page import assemble, out_of_range
    from alframe.report.write.console import print_left_out, print_notes, print_section, print_warnings
    from alframe.report.write.figures import figures
    from alframe.report.write.pages import html, markdown
    from alframe.report.write.tables import csv_tables, latex

    outside = out_of_range(compared, chosen)
    for section in compared:
        print_section(section, console)
    print_notes(outside, console)
    print_left_out(left, console)
    warned = protocol.warnings(compared, left)
    print_warnings(warned, console)
    alone = all(section.is_one_by_people for section in compared)  # then there is nothing to check without a warning
    page = assemble(compared, left, chosen, None if alone and not warned else protocol.chapter(warned), notes=outside)
    board = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawn, curves = figures(page, compared, out)
        files = [
            html(page, drawn, out),
            markdown(page, drawn, out),
            *curves,
            *csv_tables(compared, out),
            latex(compared, out),
        ]
        if tensorboard:
            from alframe.report.write.tensorboard import write as write_board

            board = write_board(compared, out)
    except OSError as error:
        raise RunFolderError(
            f"Expected a folder to write the report to, got {str(out)!r} ({error.strerror}); choose another by --out."
        ) from error
    names = ", ".join(file.name for file in files)
    console.print(f"\nWritten to {out}: {names}, figures/", markup=False, highlight=False, soft_wrap=True)
    if board:
        console.print(f"tensorboard --logdir '{board}'", markup=False, highlight=False, soft_wrap=True)
    found = ", ".join(dict.fromkeys(warning.name for warning in warned))
    expect(
        not (strict and found),
        f"Expected no protocol warnings, got {found}; the report says what to do.",
        ProtocolError,
    )
    return files


def _label_counts(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    valid = all(word.isdecimal() and int(word) > 0 for word in words)
    expect(valid, _wrong("--at", "label counts such as 100,200", text))
    return tuple(sorted(set(map(int, words))))


def _wrong(option: str, wanted: str, got: object) -> str:
    return f"Expected {option} to be {wanted}, got {got}; see alframe-report --help."


def _number(option: str, wanted: str, allowed: Callable[[float], bool], text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(_wrong(option, "a number", repr(text))) from None
    expect(allowed(value), _wrong(option, wanted, value))
    return value


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare finished runs: a table, learning curves, and which differences are significant.",
    )
    add = parser.add_argument
    target = partial(_number, "--target", "a value of the metric", math.isfinite)
    share = partial(_number, "--full-data-share", "a share above 0 and at most 1", lambda value: 0 < value <= 1)
    cost = partial(_number, "--label-cost", "a cost of 0 or more", lambda value: 0 <= value < math.inf)
    add("folders", metavar="FOLDER", nargs="+", type=Path, help="run folders, or folders above them")
    add("--metric", help=f"a key of {ROUNDS}; by default test/auroc for two classes, test/accuracy for more")
    add("--baseline", default="random", help="the strategy to compare with (default: random)")
    add("--out", type=Path, help="where to write (default: the first FOLDER)")
    add("--unfinished", action="store_true", help="include runs that have not finished")
    add(
        "--at",
        type=_label_counts,
        default=(),
        metavar="N,N,...",
        help="label counts to compare at, besides the last one",
    )
    add(
        "--target",
        type=target,
        metavar="X",
        help="report how many labels reach this value of the metric",
    )
    add(
        "--full-data-share", type=share, default=0.95, metavar="X",
        help="without --target: the same for this share of the value with all labels (default: 0.95)",
    )  # fmt: skip
    add(
        "--label-cost",
        type=cost,
        default=1.0,
        metavar="X",
        help="price of a label (default: 1)",
    )
    add("--tensorboard", action="store_true", help="write mean curves with bands for TensorBoard, to OUT/tensorboard")
    add("--strict", action="store_true", help="exit with 1, after writing, if a protocol check found something")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
