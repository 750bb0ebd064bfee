"""Several networks of one architecture as one module, so that they are trained in the same steps."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from alframe.errors import TrainingError


class Together(nn.Module):
    """`networks` with their parameters and buffers stacked along a new first axis; each is fed its own part of the batch.

    Batch statistics, running averages and dropout are each network's own. `release` gives the networks their trained weights.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = len(networks)
        self._pattern = [deepcopy(networks[0]).to("meta")]  # in a list, for it is no submodule
        parameters, buffers = stack_module_state(list(networks))
        self._names = {name.replace(".", "/"): name for name in (*parameters, *buffers)}
        for name, value in parameters.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value.detach(), value.requires_grad))
        for name, value in buffers.items():
            self.register_buffer(name.replace(".", "/"), value)

    def forward(self, x: Tensor) -> Tensor:
        """[members * b, ...] to logits [members * b, c]: the first b are the first network's.

        Raises `TrainingError` for an operation that torch.vmap cannot batch here, as batch normalization on CUDA (torch 2.11).
        """
        pattern = self._pattern[0].train(self.training)
        parameters: dict[str, Tensor] = {self._names[name]: value for name, value in self.named_parameters()}
        buffers = {self._names[name]: value for name, value in self.named_buffers()}

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(pattern, (parameters, buffers), (x,))

        try:
            logits = torch.vmap(one, randomness="different")(parameters, buffers, x.unflatten(0, (self.members, -1)))
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise TrainingError(
                f"Expected a network that torch.vmap can train {self.members} times at once on {x.device}, got: {str(error).splitlines()[0]}; "
                "set uncertainty.method=one_by_one."
            ) from error
        return logits.flatten(0, 1)

    @torch.no_grad()
    def release(self, networks: Sequence[nn.Module]) -> None:
        """Copy the trained weights back into the networks."""
        stacked = {self._names[name]: value for name, value in self.state_dict().items()}
        for member, network in enumerate(networks):
            network.load_state_dict({name: value[member] for name, value in stacked.items()}, strict=False)
