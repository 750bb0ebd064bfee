import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from alframe.trainer.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept" and not keep_freed_memory():
    raise SystemExit(9)
def batch():
    parts = [torch.ones(5_000_000) for _ in range(3)]
for _ in range(20):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    settings = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "131072"
    }  # glibc's start; it would move it at its own discretion
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, env=settings)
    if done.returncode == 9:
        pytest.skip("another C library than glibc")
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_batch_takes_the_memory_of_the_one_before():
    kept, otherwise = faults("kept"), faults("otherwise")
    assert otherwise > 100_000  # thirty tensors of some 4,900 pages
    assert kept < otherwise / 2  # the heap may still grow once or twice: where it lies is the system's choice
