"""Runs inside a peer's environment: one JSON request a line on standard input, one JSON reply a line on standard output.

Request {peer, strategy, case, size, seeds, options, measure}; `case` names a .npz file. Reply {answers: [{positions, scores, seconds,
extra_bytes, notes}, ...]}, one for each seed, or {error}. A query answers positions, (positions, scores) or (positions, scores,
notes), notes being plain values. Seconds and bytes are those of the query alone: the adapter has turned the
case into what the peer takes before the clock starts. Bytes are taken with `measure` only, which costs 0.3 s.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np


def answer(request: dict) -> dict:
    module = importlib.import_module("peers.adapters." + request["peer"].replace("-", "_").lower())
    if not request["measure"]:
        gc.freeze()  # what is imported need not be walked each time that a peer collects garbage; timings keep that cost
    answers = []
    for seed in request["seeds"]:
        with np.load(request["case"]) as stored:
            case = {
                name: stored[name] for name in stored.files
            }  # anew for each seed: some peers write into their input
        query = getattr(module, request["strategy"])(case, seed=seed, **request["options"])
        del case
        scatter(seed)
        before = settle() if request["measure"] else 0
        start = time.perf_counter()
        found = query(request["size"])
        seconds = time.perf_counter() - start
        extra = resident("VmHWM") - before if request["measure"] else 0
        positions, scores, notes = (*found, {})[:3] if isinstance(found, tuple) else (found, None, {})
        answers.append(
            {
                "positions": np.asarray(positions).reshape(-1).tolist(),
                "scores": None if scores is None else np.asarray(scores, dtype=float).reshape(-1).tolist(),
                "seconds": seconds,
                "extra_bytes": max(0, extra),
                "notes": notes,
            }
        )
    return {"answers": answers}


def scatter(seed: int) -> None:
    """Peers that draw from global states draw the same for the same seed."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - it is theirs
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def settle() -> int:
    """Give freed memory back and start the high-water mark anew; the bytes resident now (0 where there is no /proc)."""
    gc.collect()
    if not Path("/proc/self/clear_refs").exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(key: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints goes to standard error
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # any failure of a peer is a result, which the other side shows
            reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
