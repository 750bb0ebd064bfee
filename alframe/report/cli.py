"""The `alframe-report` command: compares finished runs by their learning curves. Reads run folders only."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from alframe.errors import AlframeError, ConfigError, RunFolderError, expect


def main(argv: Sequence[str] | None = None, *, prog: str = "alframe-report") -> int:
    """Run the command; 0 if a report was written, 1 with one line on stderr if not."""
    try:
        options = vars(_parser(prog).parse_args(argv))
        folders, out = options.pop("folders"), options.pop("out")
        writes = {name: options.pop(name) for name in ("strict", "tensorboard")}
        summarize(folders, out or folders[0], **writes, **_checked(options))
    except AlframeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def summarize(
    folders: Sequence[Path],
    out: Path,
    console: Console | None = None,
    *,
    strict: bool = False,
    tensorboard: bool = False,
    **asked: Any,
) -> list[Path]:
    """Print the table of the runs in and below `folders`, and write the report into `out`; gives the files written.

    `asked` are fields of `blocks.Options`. Raises `RunFolderError` where no run can be used or `out` cannot be written,
    `ConfigError` for an unknown metric and for label counts that no comparison has, and with `strict`, once everything is
    written, `ProtocolError` where the protocol checks found something. `tensorboard` writes mean curves for it too.
    """
    # scipy and matplotlib take a second to import, which --help and a mistyped folder should not wait for
    from alframe.report.blocks import Options
    from alframe.report.summary import sections

    console, options = console or Console(), Options(out=out, **asked)
    compared, left = sections(folders, options.metric, options.baseline, options.unfinished)
    from alframe.report import protocol
    from alframe.report.console import left_out_to_console, notes_to_console, to_console
    from alframe.report.page import assemble, out_of_range

    outside = out_of_range(compared, options)
    for section in compared:
        to_console(section, console)
    notes_to_console(outside, console)
    left_out_to_console(left, console)
    objections = protocol.warnings(compared, left)
    protocol.to_console(objections, console)
    page = assemble(compared, left, options, protocol.chapter(objections), notes=outside)
    board = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = _write(page, compared, out)
        if tensorboard:
            from alframe.report.tensorboard import write as write_board

            board = write_board(compared, out)
    except OSError as error:
        raise RunFolderError(
            f"Expected a folder to write the report to, got {str(out)!r} ({error.strerror}); choose another by --out."
        ) from error
    names = ", ".join(file.name for file in files)
    console.print(f"\nWritten to {out}: {names}, figures/", markup=False, highlight=False, soft_wrap=True)
    if board:
        console.print(f"tensorboard --logdir '{board}'", markup=False, highlight=False, soft_wrap=True)
    if strict:
        protocol.insist(objections)
    return files


def _write(page: Any, compared: Sequence[Any], out: Path) -> list[Path]:
    """The files in the order in which a person would open them."""
    from alframe.report import write
    from alframe.report.html import html
    from alframe.report.latex import latex

    drawn, curves = write.figures(page, compared, out)
    return [
        html(page, drawn, out),
        write.markdown(page, drawn, out),
        *curves,
        *write.tables(compared, out),
        latex(compared, out),
    ]


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options with `at` as numbers. Raises `ConfigError` in one line for what is out of range."""
    at = []
    for word in (options["at"] or "").split(","):
        if word.strip():
            expect(
                word.strip().isdecimal() and int(word) > 0,
                _wrong("--at", "label counts such as 100,200", options["at"]),
            )
            at.append(int(word))
    target, share = options["target"], options["full_data_share"]
    expect(target is None or math.isfinite(target), _wrong("--target", "a value of the metric", target))
    expect(0 < share <= 1, _wrong("--full-data-share", "a share above 0 and at most 1", share))
    cost = options["label_cost"]
    expect(0 <= cost < math.inf, _wrong("--label-cost", "a cost of 0 or more", cost))
    return {**options, "at": tuple(sorted(set(at)))}


def _wrong(option: str, wanted: str, got: object) -> str:
    return f"Expected {option} to be {wanted}, got {got}; see alframe-report --help."


def _number(option: str) -> Callable[[str], float]:
    """What reads a number, and says in our own words where there is none."""

    def read(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise ConfigError(_wrong(option, "a number", repr(text))) from None

    return read


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare finished runs: a table, learning curves, and what can be said of the differences.",
    )
    add = parser.add_argument
    add("folders", metavar="FOLDER", nargs="+", type=Path, help="run folders, or folders above them")
    add("--metric", help="a key of rounds.jsonl; by default test/auroc for two classes, test/accuracy for more")
    add("--baseline", default="random", help="the strategy to compare with (default: random)")
    add("--out", type=Path, help="where to write (default: the first FOLDER)")
    add("--unfinished", action="store_true", help="use runs that have not stopped yet, as far as they are")
    add("--at", metavar="N,N,...", help="label counts to compare at, beside the last one")
    add("--target", type=_number("--target"), metavar="X", help="how many labels reach this value of the metric?")
    add(
        "--full-data-share", type=_number("--full-data-share"), default=0.95, metavar="X",
        help="how many labels reach this share of a run on all data? (default: 0.95)",
    )  # fmt: skip
    add("--label-cost", type=_number("--label-cost"), default=1.0, metavar="X", help="price of a label (default: 1)")
    add("--tensorboard", action="store_true", help="write mean curves with bands for TensorBoard, to OUT/tensorboard")
    add("--strict", action="store_true", help="exit with 1, after writing, if a protocol check found something")
    return parser


if __name__ == "__main__":
    sys.exit(main())
