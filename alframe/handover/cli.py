"""The commands `alframe export` and `alframe predict`, with `alframe-export` and `alframe-predict` as aliases."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from alframe.errors import RunFolderError, expect
from alframe.verbs import guarded, say

ROOT = "where the run's images are now, if they have been moved"
DEVICE = "cpu, cuda or auto (default: the device of the run, if available)"


def export_main(argv: Sequence[str] | None = None, *, prog: str = "alframe-export") -> int:
    """`alframe export`: 0 on success, 1 with one line on stderr, 130 if interrupted."""
    options = export_parser(prog).parse_args(argv)

    def work() -> int:
        from alframe.handover.export import check_out, export
        from alframe.handover.trained import retrieve
        from alframe.record.layout import Layout

        out = options.out or Layout(options.run).export
        check_out(out, options.overwrite)  # before anything is retrained
        export(
            retrieve(options.run, options.root, device=options.device, accept=options.accept_difference),
            out,
            images=options.images,
            with_onnx=not options.no_onnx,
            overwrite=options.overwrite,
            say=partial(say, stream=sys.stdout),
        )
        return 0

    return guarded(work)


def predict_main(argv: Sequence[str] | None = None, *, prog: str = "alframe-predict") -> int:
    """`alframe predict`: 0 on success, 1 after an error or an unreadable file (the others are predicted), 130 if interrupted."""
    options = predict_parser(prog).parse_args(argv)

    def work() -> int:
        from alframe.handover.predict import predict, predictor_of

        sys.path.append(os.getcwd())  # where users keep classes of their own, named by _target_
        if options.out is not None and options.out.exists() and not options.overwrite:
            raise RunFolderError(
                f"Expected a new file for the predictions, got {options.out}, which exists; add --overwrite to replace it."
            )
        from alframe.dataset.decode import accept_pixels

        expect(
            options.max_pixels is None or options.max_pixels >= 1,
            f"Expected --max-pixels of at least 1, got {options.max_pixels}; it is the most pixels that a photo may have.",
        )
        accept_pixels(options.max_pixels)
        if options.maps is not None and options.maps.exists() and not options.overwrite:
            raise RunFolderError(
                f"Expected a new folder for the maps, got {options.maps}, which exists; add --overwrite to write into it."
            )
        if options.maps is not None:
            try:
                options.maps.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunFolderError(
                    f"Expected a folder for the maps, got {options.maps} ({error.strerror}); choose another with --maps."
                ) from error
        predictor = predictor_of(
            options.source, options.root, device=options.device, accept=options.accept_difference, say=say
        )

        def write(stream: TextIO) -> int:
            return predict(predictor, options.paths, stream, every_class=options.all, maps=options.maps, say=say)

        if options.out is not None:
            return int(bool(_to_file(options.out, write)))
        if hasattr(sys.stdout, "reconfigure"):  # so that any file name can be written, including undecodable bytes
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        return int(bool(write(sys.stdout)))

    return guarded(work)


def export_parser(prog: str = "alframe-export") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a run's trained model and its labels to a separate folder.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run folder: runs/<study>/<cell>/seed=<s>")
    add("--out", metavar="DIR", type=Path, help="where to write (default: RUN/export)")
    add("--images", action="store_true", help="copy the labelled images too, one subfolder per class")
    add("--no-onnx", action="store_true", help="do not write model.onnx")
    add("--overwrite", action="store_true", help="replace an older export in DIR")
    add("--device", help=DEVICE)
    add("--root", metavar="PATH", type=Path, help=ROOT)
    add("--accept-difference", action="store_true", help="continue even if the run's test metrics are not reproduced")
    return parser


def predict_parser(prog: str = "alframe-predict") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Class, probability and uncertainty of image files, as CSV. Folders are searched at any depth.",
    )
    add = parser.add_argument
    add("source", metavar="RUN_OR_EXPORT", type=Path, help="a folder written by alframe export, or a run folder")
    add("paths", metavar="PATH", nargs="+", type=Path, help="image files, or folders of them")
    add("--out", metavar="FILE", type=Path, help="where to write (default: standard output)")
    add("--all", action="store_true", help="the probability of every class, one column per class")
    add("--maps", metavar="FOLDER", type=Path, help="draw on a copy of each photo where the evidence for a defect is")
    add("--overwrite", action="store_true", help="replace FILE, and maps in FOLDER")
    add("--device", help=DEVICE)
    add("--root", metavar="PATH", type=Path, help=ROOT)
    add("--max-pixels", metavar="N", type=int, help="how many pixels a photo may have (default: about 179 million)")
    add("--accept-difference", action="store_true", help="continue even if the run's test metrics are not reproduced")
    return parser


def _to_file(path: Path, write: Callable[[TextIO], int]) -> int:
    """Write the whole file or none."""
    from alframe.record.files import replacing

    expect(
        path.parent.is_dir(),
        f"Expected a file to write to, got {path} in a folder that does not exist; choose another with --out.",
        RunFolderError,
    )
    try:
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            return write(stream)
    except OSError as error:
        raise RunFolderError(
            f"Expected a file to write to, got {path} ({error.strerror}); choose another with --out."
        ) from error
