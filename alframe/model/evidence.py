"""Evidence maps of trained networks on raw images, and the classes that they are drawn for."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alframe.model.base import Network, Pools
from alframe.pixels import Prepare

NO_MAPS = (
    "No evidence maps: they need a single linear layer on features pooled over the whole image; model.tiles and, with "
    "model=frozen, inputs below 64 pixels have none."
)
AT_ONCE = 16  # images of a pass: the maps of a trunk take a few megabytes each


def shown_classes(probs: Float[Tensor, "b c"], defects: Sequence[int] | None) -> Int[Tensor, " b"]:
    """The class whose evidence is shown: the most likely defect, or the most likely class if nobody said what defects are."""
    some = torch.arange(probs.shape[1]) if defects is None else torch.tensor(defects)
    return some[probs.cpu()[:, some].argmax(dim=1)]


@torch.no_grad()
def evidence_maps(
    networks: Sequence[nn.Module], raw: Tensor, prepare: Prepare, pools: Pools | None, classes: Int[Tensor, " b"]
) -> Float[Tensor, "b h w"] | None:
    """The mean over the networks of `Pooled.evidence` for raw images [b, c, h, w]; None where there is no exact map.

    `pools`: from raw images to features before they are pooled, which `prepare` normalises for all networks; None: the
    networks read images.
    """
    shared = pools(raw) if pools else None
    found = []
    for network in networks:
        pooled = None
        if isinstance(network, Network):
            pooled = shared.then(prepare) if shared else None if pools else network.pooled(prepare(raw))
        if pooled is None:
            return None
        found.append(pooled.evidence(network.head, classes.to(raw.device)).cpu())  # type: ignore[arg-type]
    return torch.stack(found).mean(dim=0)
