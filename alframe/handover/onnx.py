"""The network as ONNX: one graph from uint8 images to probabilities, checked against PyTorch before it is kept."""

import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from alframe.errors import DataError
from alframe.handover.predictor import BATCH, Predictor

NEEDED = ("onnx", "onnxscript", "onnxruntime")
AGREES = 1e-4
INPUT, OUTPUT = "images", "probabilities"


def missing() -> list[str]:
    """The packages that ONNX export needs and that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def write(path: Path, predictor: Predictor) -> None:
    """Write `predictor.graph()`; the number of images is free. Raises `DataError` for a network that cannot be exported."""
    import onnx

    example = torch.zeros(2, *predictor.spec.shape, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            torch.onnx.export(
                predictor.graph(),
                (example,),
                path,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # tracing a user's network may fail in any way
        raise DataError(
            f"Expected a network that torch.onnx.export supports, got {type(error).__name__}: {str(error).strip().splitlines()[0]}; "
            "skip ONNX with --no-onnx."
        ) from error
    model, spec = onnx.load(path), predictor.spec
    properties = {
        "classes": json.dumps(list(spec.classes)),
        "input": f"uint8 [batch, {', '.join(map(str, spec.shape))}], values 0 to 255, resized; normalisation is in the graph",
        "resize": spec.resize,
        "alframe": spec.alframe,
    }
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def difference(path: Path, predictor: Predictor, images: np.ndarray) -> float:
    """The largest difference between the probabilities of onnxruntime and PyTorch on uint8 `images` [n, c, h, w].

    Raises `DataError` above 1e-4.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    apart = 0.0
    step = max(1, BATCH // predictor.passes_per_image)
    for start in range(0, len(images), step):
        batch = np.array(images[start : start + step])  # a copy, because torch needs a writable array
        (probabilities,) = session.run([OUTPUT], {INPUT: batch})
        expected = predictor.expected(torch.from_numpy(batch)).cpu().numpy()
        apart = max(apart, float(np.nan_to_num(np.abs(probabilities - expected), nan=np.inf).max()))
    if apart > AGREES:
        raise DataError(
            f"Expected probabilities of {path.name} within {AGREES:g} of PyTorch's, got a difference of {apart:.2g}; skip ONNX with --no-onnx."
        )
    return apart
