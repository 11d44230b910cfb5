"""Z-PNN: the network of A-PNN, adapted to the image it fuses by a loss that needs no ground truth.

Paper: M. Ciotola, S. Vitale, A. Mazza, G. Poggi, G. Scarpa, "Pansharpening by convolutional neural networks in the full
resolution framework", IEEE TGRS 60, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lemamba.model.apnn import APNN, published_names
from lemamba.utils.registry import register_model


@register_model(
    "Z-PNN",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 8, 16),
    paper="Ciotola et al., TGRS 60, 2022",
    published_weights="yes",
    needs_weights=False,
    trained=False,
    adapts=True,
)
class ZPNN(APNN):
    """Z-PNN. Parameters and arguments are those of A-PNN. `forward` fuses with the weights as they are."""

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check a state dict of the authors' repositories (matciotola/Z-PNN, fast-z-pnn); the names are ours."""
        return published_names(state_dict, "Z-PNN")
