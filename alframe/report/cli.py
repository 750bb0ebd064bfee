"""The `alframe-report` command: compares finished runs by their learning curves. Reads run folders only."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alframe.errors import AlframeError, RunFolderError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if a report was written, 1 with one line on stderr if not."""
    arguments = _parser().parse_args(argv)
    try:
        out = arguments.out or arguments.folders[0]
        summarize(
            arguments.folders,
            out,
            metric=arguments.metric,
            baseline=arguments.baseline,
            unfinished=arguments.unfinished,
            strict=arguments.strict,
            tensorboard=arguments.tensorboard,
        )
    except AlframeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def summarize(
    folders: Sequence[Path],
    out: Path,
    console: Console | None = None,
    metric: str | None = None,
    baseline: str = "random",
    unfinished: bool = False,
    strict: bool = False,
    tensorboard: bool = False,
) -> list[Path]:
    """Print the table of the runs in and below `folders`, and write the report into `out`; gives the files written.

    Raises `RunFolderError` where no run can be used or `out` cannot be written, `ConfigError` for an unknown metric, and
    with `strict`, once everything is written, `ProtocolError` where the protocol checks found something.
    """
    # scipy and matplotlib take a second to import, which --help and a mistyped folder should not wait for
    from alframe.report.summary import sections

    console = console or Console()
    compared, left = sections(folders, metric, baseline, unfinished)
    from alframe.report import protocol, write
    from alframe.report.figure import draw

    for section in compared:
        write.to_console(section, console)
    write.left_out_to_console(left, console)
    objections = protocol.warnings(compared, left)
    protocol.to_console(objections, console)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write.markdown(compared, left, out)
        write.tables(compared, out)
        figures = draw(compared, out)
        board = None
        if tensorboard:
            from alframe.report.tensorboard import write as write_board

            board = write_board(compared, out)
    except OSError as error:
        raise RunFolderError(
            f"Expected a folder to write the report to, got {str(out)!r} ({error.strerror}); choose another by --out."
        ) from error
    files = [out / "report.md", *figures, out / "results.csv", out / "rounds.csv"]
    console.print(
        f"\nWritten to {out}: {', '.join(file.name for file in files)}", markup=False, highlight=False, soft_wrap=True
    )
    if board:
        console.print(f"tensorboard --logdir '{board}'", markup=False, highlight=False, soft_wrap=True)
    if strict:
        protocol.insist(objections)
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alframe-report",
        description="Compare finished runs: a table, learning curves, and what can be said of the differences.",
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument(
        "--metric", help="a key of rounds.jsonl; by default test/auroc for two classes, test/accuracy for more"
    )
    parser.add_argument("--baseline", default="random", help="the strategy to compare with (default: random)")
    parser.add_argument("--out", type=Path, help="where to write (default: the first FOLDER)")
    parser.add_argument(
        "--unfinished", action="store_true", help="use runs that have not stopped yet, as far as they are"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write mean curves with bands for TensorBoard, to OUT/tensorboard"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1, after writing, if a protocol check found something"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
