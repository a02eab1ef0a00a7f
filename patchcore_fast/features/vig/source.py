"""A Vision GNN as a `FeatureSource`: its layers, its size, and the user's file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from patchcore_fast.errors import BankError, DataError
from patchcore_fast.features.networks import Outline, own_random_state
from patchcore_fast.features.source import FeatureSource, Size
from patchcore_fast.features.vig.network import Grapher, Network
from patchcore_fast.features.vig.positions import factors
from patchcore_fast.features.vig.shapes import SHAPES, Shape
from patchcore_fast.features.weights import match_names, read_state_dict
from patchcore_fast.kernels.surroundings import undisturbed

_CLOSE = 1e-4  # relative positions in a file, float32, to those of the formula; they are numbers of up to 1


class VisionGNN(FeatureSource):
    """Maps of a Vision GNN's blocks, or of a pyramid's stages (docs/graphcore.md).

    Parameters
    ----------
    name : one of `SHAPES`.
    layers : blocks, or stages of a pyramid, by number from 0 or by module ("backbone.5").
    weights : a safetensors file or state dict of the authors' whole network, with their names; "random" draws them from
        `seed`. No package has any, so that "auto" is an error.
    norm : must be False: the networks have no final norm.
    image_size : must be (224, 224) or None: position embeddings are learned for it.
    shape : another network than `SHAPES` has, for tests.

    Raises
    ------
    ValueError : no such network or layer, another size, a norm, or no weights.
    DataError : a file that is damaged, of another network, or whose relative positions are not the formula's.
    """

    @undisturbed
    def __init__(
        self,
        name: str,
        layers: Sequence[int] | Sequence[str],
        weights: str | Path = "auto",
        device: str | torch.device | None = None,
        seed: int = 0,
        *,
        norm: bool = False,
        image_size: int | Size | None = None,
        shape: Shape | None = None,
    ) -> None:
        """Build the network up to the last layer and load its weights."""
        super().__init__()
        if shape is None and name not in SHAPES:
            raise ValueError(f"Backbone: Vision GNN is one of {', '.join(SHAPES)}, got {name!r}")
        shape = shape or SHAPES[name]
        if norm:
            raise ValueError(f"Backbone: {name} has no final norm: take norm=False")
        if weights == "auto":
            raise ValueError(
                f"Backbone: no package has weights of {name}: give its authors' file with --weights FILE "
                '(weights=...), or "random"'
            )
        self.name, self.fixed_size = name, (shape.side, shape.side)
        if image_size is not None:
            self.check_size((image_size, image_size) if isinstance(image_size, int) else image_size)
        known = Outline(name, tuple(m for m, _, _ in shape.layers), self.fixed_size, False, (1, 1), True)
        chosen = [shape.layers[i] for i in known.numbers(layers)]
        self.layers, self.channels, self.reductions = (tuple(x) for x in zip(*chosen, strict=True))
        taken = tuple(int(module.split(".")[1]) for module in self.layers)
        with own_random_state(seed):
            self.net = Network(shape, taken)
        if weights != "random":
            self.net.load_state_dict(_read(Path(weights), shape, self.net))
        self._normalised_by((0.5,) * 3, (0.5,) * 3)
        self.requires_grad_(False).eval().to(device)

    def at_one_size(self, _size: Size) -> NoReturn:
        """BankError: it cannot be written down."""
        raise BankError(f"export: the backbone must not be {self.name}, whose neighbours the exact kernel finds")


def _read(path: Path, shape: Shape, net: Network) -> dict[str, torch.Tensor]:
    """The tensors of a file that the network takes; errors as of `VisionGNN`."""
    found = read_state_dict(path)
    with torch.device("meta"):
        whole = Network(shape, (int(shape.layers[-1][0].split(".")[1]),))
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    wanted = dict.fromkeys(net.state_dict())
    graphs: dict[str, Grapher] = {}
    for name, graph in whole.named_modules():
        if isinstance(graph, Grapher) and graph.side is not None:
            nodes = graph.side**2
            shapes[key := f"{name}.relative_pos"] = (1, nodes, nodes // graph.reduction**2)
            graphs[key] = graph
    if unknown := [name for name in found if name not in shapes and not name.startswith("prediction.")]:
        raise DataError(f"{path}: holds {len(unknown)} tensors that the model has not, first {unknown[0]}")
    built = {name for name, _ in net.named_modules()}
    positions = [key for key in graphs if key.removesuffix(".relative_pos") in built]
    state = match_names(found, shapes, [*wanted, *positions], path, by_order=False)
    for key in positions:
        graph = graphs[key]
        query, other = factors(graph.channels, graph.side or 0, graph.reduction)
        if not torch.allclose(state[key][0].double(), -2 * query @ other.T, rtol=0, atol=_CLOSE):
            raise DataError(f"{path}: {key} is not made of sines and cosines as the model's relative positions are")
    return {name: state[name] for name in wanted}
