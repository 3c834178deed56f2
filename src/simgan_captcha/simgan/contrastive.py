"""Patch-wise contrastive loss, which keeps a patch recognisable among all patches of its image.

Shapes: B batch, F features, P patches, D numbers per patch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 0.07
"""Temperature τ, as in the source."""


def patch_nce_loss(queries: Tensor, keys: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of finding each refined patch among all patches of the image before refining.

    Args:
        queries: Patches of the refined image, (B, P, D), float, of length 1. They receive
            gradients.
        keys: The same patches before refining, (B, P, D), without gradients. The patch at the same
            place is correct, and the P - 1 other patches of the image are wrong.
        temperature: τ.

    Returns:
        Scalar in nats; ln P if all patches are equally likely.

    Source:
        CUT, arXiv:2007.15651, equations 3 and 4.

    Example:
        >>> patches = torch.eye(4).unsqueeze(0)
        >>> same, other = patch_nce_loss(patches, patches), patch_nce_loss(patches, patches.flip(1))
        >>> same.item() < 0.01 < other.item()
        True
    """
    similarity = queries.float() @ keys.detach().float().transpose(1, 2) / temperature  # (B, P, P)
    right = torch.arange(similarity.shape[1], device=queries.device).expand(len(queries), -1)
    return F.cross_entropy(similarity.flatten(0, 1), right.flatten())


class PatchSampler(nn.Module):
    """Maps patches of feature maps to vectors of D numbers and length 1.

    The P places are the same in every layer.

    Source:
        CUT, arXiv:2007.15651, section 3.2. There, each layer of the encoder has a network of two
        layers with D = 256, and P = 256. Deviation: D and P are smaller by default, because the
        refiner has fewer features and the images are small.

    Args:
        features: F of the maps.
        layers: Number of maps.
        size: D.
        places: Largest P. A map with fewer pixels uses all of them.
    """

    def __init__(self, features: int, layers: int, size: int = 64, places: int = 128) -> None:
        super().__init__()
        self.places = places
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(features, size), nn.ReLU(), nn.Linear(size, size))
            for _ in range(layers)
        )

    def draw(self, pixels: int, generator: torch.Generator) -> Tensor:
        """Draw the numbers (P,) of places in a map of ``pixels`` pixels."""
        return torch.randperm(pixels, generator=generator)[: self.places]

    def forward(self, maps: Sequence[Tensor], places: Tensor) -> list[Tensor]:
        """Map each feature map (B, F, h, w) to vectors (B, P, D)."""
        chosen = [layer.flatten(2)[:, :, places].transpose(1, 2) for layer in maps]
        return [
            F.normalize(head(patches).float(), dim=-1)
            for head, patches in zip(self.heads, chosen, strict=True)
        ]


def contrastive_loss(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    """Mean of `patch_nce_loss` over layers, (B, P, D) each."""
    each = [patch_nce_loss(query, key) for query, key in zip(queries, keys, strict=True)]
    return torch.stack(each).mean()
