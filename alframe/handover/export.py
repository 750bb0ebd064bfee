"""`alframe export`: a run's model and labels in a separate folder, written atomically."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alframe.errors import RunFolderError
from alframe.handover import labels, onnx
from alframe.handover.predictor import Predictor, Spec, Tensors, load, save
from alframe.handover.trained import Trained, capture, images_to_check

MODEL, ONNX, LABELS, IMAGES, MANIFEST, README = (
    "model.safetensors", "model.onnx", "labels.csv", "images", "manifest.json", "README.txt",
)  # fmt: skip

Say = Callable[[str], None]


def export(
    trained: Trained,
    out: Path,
    *,
    images: bool = False,
    with_onnx: bool = True,
    overwrite: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Write the model and the labels of a run to `out`; returns the manifest.

    Raises `RunFolderError` if `out` is not empty (with `overwrite`: if it is not an export), and what `capture` and `onnx`
    raise. `say` prints one line per step.
    """
    check_out(out, overwrite)
    state = "" if trained.stopped else " of an unfinished run"
    match = "are reproduced exactly" if trained.difference == 0 else f"are reproduced within {trained.difference:.1g}"
    of = next((of for of in ("test", "validation") if f"{of}/accuracy" in trained.line), None)
    checked = f"its {of} metrics {match}" if of else "no metrics were measured, so nothing is checked"
    n = trained.line["labels"]
    say(f"{trained.folder}: round {trained.round}{state}, {n} labels; {trained.how}; {checked}")
    if n := trained.n_corrected_since:
        say(
            f"{n} label{'s were' if n > 1 else ' was'} corrected since that round: corrected in {LABELS}, but not in what the model was "
            "trained on; one more round trains on it (a higher budget.rounds)"
        )
    spec, tensors = capture(trained)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            manifest = _write(building, trained, spec, tensors, images, with_onnx, say)
            building.chmod(0o755)
            _put(building, out, overwrite)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise RunFolderError(
            f"Expected a folder to write the export to, got {str(out)!r} ({error.strerror or error}); choose another with --out."
        ) from error
    say(f"Written to {out}: {', '.join(manifest['files'])}. To use it: alframe predict {out} PHOTOS")
    return manifest


def check_out(out: Path, overwrite: bool) -> None:
    """Raise `RunFolderError` unless `out` does not exist, is empty, or is an export that may be overwritten."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise RunFolderError(
            f"Expected a folder for the export, got {out}, which is a file; choose another with --out."
        )
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise RunFolderError(
            f"Expected an empty folder for the export, got {out} with files in it; choose another with --out, or replace an older export with --overwrite."
        )
    foreign = sorted(
        path.name for path in out.iterdir() if path.name not in (MODEL, ONNX, LABELS, IMAGES, MANIFEST, README)
    )
    if foreign or not (out / MANIFEST).is_file():
        got = foreign[0] if foreign else f"no {MANIFEST}"
        raise RunFolderError(
            f"Expected an older export in {out}, because --overwrite deletes all of it, got {got}; choose another folder with --out."
        )


def _put(building: Path, out: Path, overwrite: bool) -> None:
    """Rename the finished folder; only then delete an older export."""
    check_out(out, overwrite)
    if not out.exists():
        building.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old)  # onto an empty folder
    try:
        building.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _write(
    folder: Path, trained: Trained, spec: Spec, tensors: Tensors, images: bool, with_onnx: bool, say: Say
) -> dict[str, Any]:
    """Write all files of the export; the manifest last, because it contains the digests of the others."""
    pool = trained.experiment.data.pool
    save(folder / MODEL, spec, tensors)
    predictor = load(folder / MODEL, torch.device("cpu"))
    checks = _write_onnx(folder / ONNX, predictor, images_to_check(trained.experiment)[1], say) if with_onnx else {}
    found = labels.labelled(trained)
    show = trained.experiment.resources.show_progress
    files = labels.write_images(folder / IMAGES, found, pool, trained.classes, show) if images else None
    labels.write_table(folder / LABELS, found, trained.classes, files)
    say(f"{LABELS}: {len(found)} labelled images{f', copied to {IMAGES}/' if images else ''}")
    (folder / README).write_text(readme(spec, predictor.uncertainty.n_draws, checks, images=images), encoding="utf-8")
    manifest = {
        "alframe": "export",
        "model": asdict(spec),
        **{
            key: None if (of := tensors.get(f"front.{key}")) is None else of.flatten().tolist()
            for key in ("mean", "deviation")
        },
        "checks": checks,
        "labelled": len(found),
        "files": {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def _write_onnx(path: Path, predictor: Predictor, images: Any, say: Say) -> dict[str, Any]:
    absent = onnx.missing()
    if absent:
        say(f"{path.name}: skipped, because {', '.join(absent)} is not installed; pip install 'alframe[export]'")
        return {}
    onnx.write(path, predictor)
    apart = onnx.difference(path, predictor, images)
    members = predictor.spec.members
    gives = f"the mean over {members} networks" if members > 1 else "the network"
    if predictor.is_exact:
        gives = "the posterior mean"
    if not predictor.averages:
        gives = "the deterministic network: no dropout, the trained weights, the unmodified image"
    say(f"{path.name}: probabilities within {apart:.1e} of PyTorch's on {len(images)} images ({gives})")
    return {"onnx": {"max_abs_difference": apart, "images": len(images), "gives": gives}}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readme(spec: Spec, n_draws: int, checks: dict[str, Any], *, images: bool) -> str:
    """The README.txt of an export: what the files are, and how to use them without knowing alframe."""
    test = ", ".join(f"{name} {value:.4g}" for name, value in spec.run["test"].items() if isinstance(value, float))
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    page = environment.get_template("readme.txt.j2")
    defects = [spec.classes[c] for c in spec.defects or ()]
    given = {"spec": spec, "run": spec.run, "defects": defects, "onnx": checks.get("onnx"), "images": images}
    return page.render(given, test=test, n_draws=n_draws)
