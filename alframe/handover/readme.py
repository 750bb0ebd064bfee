"""The README.txt of an export: what the files are, and how to use them without knowing alframe."""

from alframe.handover.predictor import Predictor
from alframe.handover.spec import STRETCH, Spec

PAGE = """A trained image classifier, exported by alframe {alframe}.

Classes, in the order of the outputs: {classes}.{defects}
Input: uint8 images [n, {channels}, {height}, {width}], {colour}, values 0 to 255. {resize}
16-bit values are scaled by 255 / 65535; EXIF orientation is applied; transparent pixels are blended with white.
Normalisation is part of the model, so pass the values unchanged.
Trained on {dataset}, round {round}, {labels} labels, {state}; the run's folder was {folder}.
{metrics}

model.safetensors  all weights ({members}), with the description of the model in the header. To predict:
                     alframe predict . PHOTOS --out predictions.csv
{onnx}labels.csv         every labelled image: id, name, label, annotator, round, kind; probabilities where people were not sure
{images}manifest.json      the same information for programs, with SHA-256 of the files

In Python, with alframe:
    import torch
    from pathlib import Path
    from alframe.handover.predictor import load
    predictor = load(Path("model.safetensors"), torch.device("cpu"))
    predictor.predict(images).mean_log_probs.exp()    # images: uint8 tensor as above
{onnx_python}"""

ONNX = """model.onnx         one graph, input `images` (uint8 as above, any n), output `probabilities` [n, {n}]; it is
                     {gives}, within {apart:.1e} of PyTorch
"""
ONNX_PYTHON = """
With onnxruntime alone:
    import onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    (probabilities,) = session.run(None, {"images": images})    # images: uint8 numpy array as above
"""
IMAGES = """images/            the labelled images as the network saw them (resized), one subfolder per class
"""


def readme(spec: Spec, predictor: Predictor, checks: dict, *, images: bool) -> str:
    """The text of README.txt."""
    channels, height, width = spec.shape
    run, onnx = spec.run, checks.get("onnx")
    stretched = f"Any size is stretched to {height} x {width} (bilinear, antialiased, as in PIL)."
    kept = f"Sizes other than {height} x {width} are rejected, because nothing was resized in training."
    test = ", ".join(f"{name} {value:.4g}" for name, value in run["test"].items() if isinstance(value, float))
    return PAGE.format(
        alframe=spec.alframe,
        classes=", ".join(spec.classes),
        defects=f" Defects: {', '.join(spec.classes[c] for c in spec.defects)}." if spec.defects else "",
        channels=channels,
        height=height,
        width=width,
        colour="grey" if channels == 1 else "red, green, blue",
        resize=stretched if spec.resize == STRETCH else kept,
        dataset=run["dataset"],
        round=run["round"],
        labels=run["labels"],
        state="finished" if run["finished"] else "not finished",
        folder=run["folder"],
        metrics=f"On its test images: {test}." if test else "It had no test images.",
        members=f"{spec.members} network{'s' * (spec.members > 1)}, {predictor.uncertainty.n_draws} draws",
        onnx=ONNX.format(n=len(spec.classes), gives=onnx["gives"], apart=onnx["max_abs_difference"]) if onnx else "",
        onnx_python=ONNX_PYTHON if onnx else "",
        images=IMAGES if images else "",
    )
