"""Every random draw comes from a named stream, `generator(seed, round, purpose)`.

There is no global seeding and no stored generator state: a new log line, a new strategy or a resumed run cannot change
another stream. Code that takes no generator (default initialisation, dropout) runs inside `scoped`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, round: int, purpose: str) -> int:
    """A 63-bit seed that depends on the three arguments alone (SHA-256, the same on every platform)."""
    digest = hashlib.sha256(f"{seed}/{round}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, round: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one round. Draws that affect a selection use the CPU on every device."""
    return torch.Generator().manual_seed(derive_seed(seed, round, purpose))


@contextmanager
def scoped(stream: torch.Generator) -> Iterator[None]:
    """Run a block with torch's default generators seeded from `stream`, and restore their state afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(stream.initial_seed())
        yield
