"""What several test files share and no fixture can give: lists to parametrise over, a watch over memory, and kills."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alframe.config.schema import composer
from alframe.model.base import Network
from alframe.rng import generator, scoped

CONFIGS = Path(__file__).parent.parent / "configs"


def leaves(group: str) -> list[Path]:
    """The YAML leaves of a config group, without the one for a class of the user's."""
    return sorted(path for path in (CONFIGS / group).glob("*.yaml") if path.stem != "custom")


@cache
def composed(*overrides: str) -> DictConfig:
    """The config of some overrides, composed once in this process: not to be changed."""
    with composer() as compose:
        return compose(list(overrides))


def with_options(notebook, *options: str) -> None:
    """Set options in a notebook's list of them: for a test the steps count, not how good the models are."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and "options = [" in cell.source)
    for option in options:
        key = option.split("=", 1)[0]
        listed = rf'^    "{re.escape(key)}=[^"]*",$'
        assert len(re.findall(listed, cell.source, re.MULTILINE)) == 1, f"{key} is not in the notebook"
        cell.source = re.sub(listed, f'    "{option}",', cell.source, flags=re.MULTILINE)
    cell.source = cell.source.replace("options = [", 'options = [\n    "run.tensorboard=false",', 1)


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation made."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.nbytes = max(self.nbytes, tensor.nbytes)
        return result


class LinearNetwork(Network):
    """Three numbers doubled are the features; the head triples them in place, which they must not feel, before a linear layer."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4, bias=bias)

    def embed(self, x: Tensor) -> Tensor:
        return 2 * x

    def head(self, h: Tensor) -> Tensor:
        return self.layer(h.mul_(3))


def linear_network(member: int = 0, **options) -> LinearNetwork:
    """Initialised by the stream of its member."""
    with scoped(generator(0, member, "init")):
        return LinearNetwork(**options)


class NetworkTask:
    """A posterior's task over networks that are trained already: `make(member)` gives one."""

    def __init__(self, make, training=(), validation=()) -> None:
        self.make, self._training, self._validation = make, list(training), list(validation)

    def train(self):
        return self.make(0)

    def train_members(self, members, method):
        return [self.make(member) for member in range(members)]

    def train_cycles(self, cycles):
        return [self.make(cycle) for cycle in range(cycles)]

    def weight_posterior(self, network):
        return None

    def training(self):
        return iter(self._training)

    def validation(self):
        return iter(self._validation)


def die(*_, **__):
    """What `kill -9` does, from inside."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(number, then):
    """A wrapper that does `then` instead of the `number`-th call (1-based)."""

    def wrap(function):
        calls = []

        def wrapped(*arguments, **options):
            calls.append(1)
            return then(*arguments, **options) if len(calls) == number else function(*arguments, **options)

        return wrapped

    return wrap


def die_after_half_a_line(ledger, line):
    """In place of `Ledger.append`."""
    ledger._file.write(json.dumps(line)[:30])
    ledger._file.flush()
    die()


def in_a_process(launch: Callable[[], bool], patch=None) -> int | None:
    """The exit code of a `launch` in a process of its own, which may die there: 0 for a finished run, 75 for one that waits.

    `patch` is an owner, the name of a function of it, and what wraps that.
    """

    def child() -> None:
        torch.set_num_threads(1)
        if patch:
            owner, name, wrap = patch
            setattr(owner, name, wrap(getattr(owner, name)))
        os._exit(0 if launch() else 75)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


def forked(
    main: Callable[[], int], argv: list[str], cwd: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """A command's entry point in a process of its own, which has what this one has imported: seconds less than a new interpreter."""
    for module in ("alframe.report.cli", "torch._dynamo", "torch.utils.tensorboard"):  # seconds each, in every child
        import_module(module)

    def child() -> None:
        os.chdir(cwd)
        os.environ.update(environment)
        sys.argv = argv
        for number, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
        warnings.resetwarnings()  # pytest's filters, which raise
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        code: int | str | None = 1
        try:
            code = main()
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)

    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise AssertionError("it did not end within 300 seconds")
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(argv, process.exitcode, *texts)
