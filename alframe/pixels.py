"""Images on their way to the device: all at once if they fit, else batch by batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from alframe.clock import Clock

Prepare = Callable[[Tensor], Tensor]
"""Raw samples (uint8 images or float32 features) to network input: normalised float32."""
WORKERS, AHEAD = 2, 4  # threads that read a non-resident set, and how many batches they prefetch


class Pixels:
    """Row access to raw samples on `device`. Resident and streamed rows have the same values.

    Sets of at most `resident_bytes` are copied to the device once. Larger ones are read batch by batch from their
    (memory-mapped) array, through pinned memory on CUDA.
    """

    def __init__(
        self, array: np.ndarray, device: torch.device, resident_bytes: int, clock: Clock | None = None
    ) -> None:
        self.device, self._clock = device, clock or Clock()
        self.shape = tuple(array.shape[1:])
        self._array = array
        self._dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        self._resident: Tensor | None = None
        if array.nbytes <= resident_bytes:
            self._resident = torch.from_numpy(np.array(array)).to(device)
        self._timed_take = self._clock.reading(self._take)

    def __len__(self) -> int:
        return len(self._array)

    @property
    def place(self) -> torch.device:
        """The device that row numbers should be on: that of the samples if they are resident, else the CPU."""
        return self.device if self._resident is not None else torch.device("cpu")

    def take(self, rows: Tensor) -> Tensor:
        """The samples at `rows` (int64), in that order, on the device."""
        return self._timed_take(rows)

    def _take(self, rows: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[rows.to(self.device)]
        return self._read(rows.cpu()).to(self.device, non_blocking=True)

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`take` for each batch of rows. A non-resident set is read by threads, up to `AHEAD` batches in advance."""
        if self._resident is not None:
            return map(self.take, batches)
        return self._clock.streaming(self._read_ahead(batches))

    def _read_ahead(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        waiting: deque[Future[Tensor]] = deque()
        readers = ThreadPoolExecutor(WORKERS, thread_name_prefix="alframe-read")
        try:
            for rows in batches:
                waiting.append(readers.submit(self._read, rows))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result().to(self.device, non_blocking=True)
            while waiting:
                yield waiting.popleft().result().to(self.device, non_blocking=True)
        finally:
            readers.shutdown(cancel_futures=True)

    def _read(self, rows: Tensor) -> Tensor:
        """Rows of the array in host memory, pinned for CUDA. A memory map is read fastest in file order."""
        places = rows.numpy()
        order = np.argsort(places, kind="stable")
        samples = torch.empty((len(rows), *self.shape), dtype=self._dtype, pin_memory=self.device.type == "cuda")
        samples.numpy()[order] = self._array[places[order]]
        return samples


class Normalizer:
    """Raw samples to float32 with about zero mean and unit deviation.

    mode "pool": by the mean and deviation of the pool, per channel (images) or per feature (cached features).
    mode "image": by the mean and deviation of each image, which removes exposure as a cue.
    mode "none": unchanged, for a network that scales images itself.
    """

    def __init__(self, array: np.ndarray, device: torch.device, mode: str = "pool") -> None:
        self.mode = mode if array.ndim == 4 else "pool"
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None
        if self.mode != "pool":
            return
        axes = (0, 2, 3) if array.ndim == 4 else (0,)
        mean, deviation = moments(array, axes)
        shape = (1, -1, 1, 1) if array.ndim == 4 else (1, -1)
        self.mean = torch.from_numpy(mean).float().view(shape).to(device)
        # A constant channel or feature becomes 0 instead of a division by 0.
        self.deviation = torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)).float().view(shape).to(device)

    def __call__(self, samples: Tensor) -> Tensor:
        return normalize(samples, self.mean, self.deviation, self.mode)


def normalize(samples: Tensor, mean: Tensor | None, deviation: Tensor | None, mode: str) -> Tensor:
    """Raw samples normalised by `mode`; `mean` and `deviation` are None except for mode "pool"."""
    x = samples.float()
    if mode == "image":
        spread, middle = torch.std_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
        return (x - middle) / spread.clamp_min(1.0)  # at least one grey level, so a blank image stays blank
    return x if mean is None or deviation is None else (x - mean) / deviation


def moments(array: np.ndarray, axes: tuple[int, ...], max_bytes: int = 1 << 26) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over `axes` in float64, in chunks of about `max_bytes`."""
    chunk = max(1, max_bytes // (8 * array[0].size))
    width = array.shape[1]
    total, square = np.zeros(width), np.zeros(width)
    for start in range(0, len(array), chunk):
        block = array[start : start + chunk].astype(np.float64)
        total += block.sum(axis=axes)
        square += np.square(block).sum(axis=axes)
    count = array.size / width
    mean = total / count
    return mean, np.sqrt(np.maximum(square / count - mean**2, 0.0))
