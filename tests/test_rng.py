import subprocess
import sys

import torch

from alframe.rng import derive_seed, generator, scoped


def draws(*arguments) -> torch.Tensor:
    return torch.rand(4, generator=generator(*arguments))


def test_same_arguments_give_the_same_stream():
    assert torch.equal(draws(0, 3, "query"), draws(0, 3, "query"))


def test_each_argument_changes_the_stream():
    streams = [draws(0, 3, "query"), draws(1, 3, "query"), draws(0, 4, "query"), draws(0, 3, "order")]
    assert len({tuple(stream.tolist()) for stream in streams}) == 4


def test_seeds_do_not_depend_on_the_process():
    code = "from alframe.rng import derive_seed; print(derive_seed(7, 2, 'init'))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    assert int(other.stdout) == derive_seed(7, 2, "init")


def test_scoped_gives_back_the_state_of_the_default_generator():
    before = torch.get_rng_state()
    with scoped(generator(0, 0, "init")):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with scoped(generator(0, 0, "init")):
        assert torch.equal(torch.rand(3), first)
