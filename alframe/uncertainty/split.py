"""A network cut by torch.fx at its first stochastic layers, so that what no mask can change is computed once."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from alframe.errors import ConfigError
from alframe.uncertainty.masks import Masks, Site, drop, is_stochastic


@dataclass(frozen=True)
class Split:
    """Three programs over the modules of one network.

    `trunk(x) -> values` computes all that no mask can change and that the rest needs; `plain(*values) -> (features,
    logits, *shapes)` is the rest with dropout off, with the shape that reaches each of `sites`; `tail(*values, *masks) ->
    (logits,)` is the rest under one mask for each site.
    """

    trunk: fx.GraphModule
    plain: fx.GraphModule
    tail: fx.GraphModule
    sites: tuple[Site, ...]


def split(network: nn.Module, masks: Masks) -> Split:
    """Cut `network`. Raises ConfigError when no mask reaches the logits, and what torch.fx raises where it cannot trace."""
    root = _EmbedAndHead(network)
    graph = _Tracer().trace(root)
    image = next(node for node in graph.nodes if node.op == "placeholder")
    features, logits = next(node for node in graph.nodes if node.op == "output").args[0]

    calls: Counter[str] = Counter()
    sites: dict[fx.Node, Site] = {}
    stochastic: set[fx.Node] = set()
    for node in graph.nodes:
        layer = str(node.target).removeprefix("network.")
        if node.op == "call_module" and layer in masks.layers:
            sites[node] = Site(layer, calls[layer])
            calls[layer] += 1
        if node in sites or not stochastic.isdisjoint(node.all_input_nodes):
            stochastic.add(node)
    if logits not in stochastic:
        raise ConfigError(
            f"Expected dropout on the way to the logits of {type(network).__name__}, got dropout only in "
            f"{sorted(masks.layers)}, which they do not depend on: the posterior would have no spread; "
            "put dropout before the head, or use uncertainty=ensemble."
        )

    rest = stochastic & _ancestors([features, logits])
    values = [n for n in graph.nodes if n not in stochastic and (n is features or not rest.isdisjoint(n.users))]
    sites = {node: site for node, site in sites.items() if node in rest}
    rates = {node: masks.rate(site) for node, site in sites.items()}
    return Split(
        trunk=_program(root, graph, [image], values, {}, masked=False),
        plain=_program(root, graph, values, [features, logits], rates, masked=False),
        tail=_program(root, graph, values, [logits], rates, masked=True),
        sites=tuple(sites.values()),
    )


class _EmbedAndHead(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.embed(x)  # type: ignore[operator]
        return features, self.network.head(features.clone())  # type: ignore[operator]  # a head may work in place


class _Tracer(fx.Tracer):
    """Sees every dropout layer: torch's own modules are taken whole only when they hold none."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_stochastic(m):
            return True
        return super().is_leaf_module(m, module_qualified_name) and not any(map(is_stochastic, m.modules()))


def _ancestors(nodes: Iterable[fx.Node], stop: Collection[fx.Node] = ()) -> set[fx.Node]:
    """`nodes` and everything they are computed from, up to `stop`."""
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(() if node in stop else node.all_input_nodes)
    return seen


def _program(
    root: nn.Module,
    graph: fx.Graph,
    inputs: list[fx.Node],
    outputs: list[fx.Node],
    rates: Mapping[fx.Node, float],
    *,
    masked: bool,
) -> fx.GraphModule:
    """The part of `graph` from `inputs` to `outputs`; the dropout nodes, keys of `rates`, become masks or copies."""
    program = fx.Graph()
    copies = {node: program.placeholder(node.name) for node in inputs}
    masks = {node: program.placeholder(f"mask_{i}") for i, node in enumerate(rates)} if masked else {}
    wanted = _ancestors(outputs, stop=copies)
    shapes: list[fx.Node] = []
    for node in graph.nodes:
        if node in copies or node not in wanted:
            continue
        if node not in rates:
            copies[node] = program.node_copy(node, copies.__getitem__)
            continue
        x = copies[node.all_input_nodes[0]]
        if masked:
            copies[node] = program.call_function(drop, (x, masks[node], rates[node]))
        else:
            # A copy, because a layer that works in place may follow, and the masked draws read `x` after this program has run.
            copies[node] = program.call_method("clone", (x,))
            shapes.append(program.call_function(getattr, (x, "shape")))
    program.output((*(copies[node] for node in outputs), *shapes))
    return fx.GraphModule(root, program)
