"""Ask a peer from here: `with Peer("baal") as peer: peer.ask("bald", arrays, size=10).positions`."""

import json
import resource
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peers.environment import SCRIPTS, clean_environment, python_of

Arrays = Mapping[str, np.ndarray]


class PeerError(Exception):
    """What the peer raised, as one line."""


@dataclass(frozen=True)
class Answer:
    """`positions` [q] in the peer's order; `scores` of all n images, or None; the query's own seconds and extra bytes.

    `notes` is what else the adapter has to tell.
    """

    positions: np.ndarray
    scores: np.ndarray | None
    seconds: float
    extra_bytes: int
    notes: dict[str, Any] = field(default_factory=dict)


class Peer:
    """A peer at work in its own process and environment; it starts with the object and ends with `close`.

    With `limit_s` a question that takes longer ends the process; with `address_space` (bytes, Linux) so does a larger allocation.
    Raises `environment.Unavailable` when the environment cannot be made.
    """

    def __init__(
        self, name: str, root: Path | None = None, *, limit_s: float | None = None, address_space: int | None = None
    ) -> None:
        self.name = name
        self._limit_s = limit_s
        self._too_long = False
        self._folder = tempfile.TemporaryDirectory(prefix="peer-")
        self._log = Path(self._folder.name, "log")
        self._n_stored = 0
        self._process = subprocess.Popen(
            [str(python_of(name, root)), "-m", "peers.worker"],
            cwd=SCRIPTS,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
        )
        if address_space is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (address_space, address_space))

    def store(self, arrays: Arrays) -> Path:
        """Write a case once that is asked about many times; it lives as long as this object."""
        self._n_stored += 1
        path = Path(self._folder.name, f"{self._n_stored}.npz")
        np.savez(path, **arrays)
        return path

    def ask(
        self,
        strategy: str,
        case: Arrays | Path,
        size: int,
        seed: int = 0,
        options: dict[str, Any] | None = None,
        *,
        measure: bool = True,
    ) -> Answer:
        """What the peer's `strategy` picks. Raises `PeerError` with what it raised. Without `measure`, extra_bytes is 0."""
        return self.ask_often(strategy, case, size, [seed], options, measure=measure)[0]

    def ask_often(
        self,
        strategy: str,
        case: Arrays | Path,
        size: int,
        seeds: Sequence[int],
        options: dict[str, Any] | None = None,
        *,
        measure: bool = False,
    ) -> list[Answer]:
        """One answer for each seed."""
        path = case if isinstance(case, Path) else self.store(case)
        request = {
            "peer": self.name,
            "strategy": strategy,
            "case": str(path),
            "size": size,
            "seeds": list(seeds),
            "options": options or {},
            "measure": measure,
        }
        try:
            reply = self._exchange(request)
        finally:
            if not isinstance(case, Path):
                path.unlink(missing_ok=True)
        if "error" in reply:
            raise PeerError(reply["error"])
        return [
            Answer(
                np.array(one["positions"], dtype=np.int64),
                None if one["scores"] is None else np.array(one["scores"], dtype=np.float64),
                one["seconds"],
                one["extra_bytes"],
                one["notes"],
            )
            for one in reply["answers"]
        ]

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watch = None if self._limit_s is None else threading.Timer(self._limit_s, self._end)
        if watch is not None:
            watch.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if watch is not None:
                watch.cancel()
        if self._too_long:
            raise PeerError(f"{self.name} took more than {self._limit_s:g} s")
        if not line:
            tail = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise PeerError(f"the process of {self.name} ended" + (f": {tail[0]}" if tail else ""))
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _end(self) -> None:
        self._too_long = True
        self._process.kill()
