"""Patch-wise contrastive loss: a patch stays recognisable among all patches of its image.

Shapes: B batch, F features, P patches, D numbers a patch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 0.07
"""τ, as in the source."""


def patch_nce_loss(queries: Tensor, keys: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of finding each patch of an image among all patches of its counterpart.

    Args:
        queries: Patches of the refined image, (B, P, D), float, of length 1; gradients pass.
        keys: The same patches of the image before refining, (B, P, D); taken as they are. The patch
            at the same place is the right one, the P - 1 others of the image are wrong.
        temperature: τ.

    Returns:
        Scalar, in nats; ln P when undecided.

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
    """Describes patches of feature maps: the same P places of every layer, D numbers of length 1.

    Source:
        CUT, arXiv:2007.15651, section 3.2: of every layer of the generator's encoder a network of
        two layers, D = 256, and P = 256 places. Deviation: D and P are smaller by default, since
        the refiner has fewer features and the images are small.

    Args:
        features: F of the maps.
        layers: Number of maps.
        size: D.
        places: P, at most; a map with fewer pixels gives them all.
    """

    def __init__(self, features: int, layers: int, size: int = 64, places: int = 128) -> None:
        super().__init__()
        self.places = places
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(features, size), nn.ReLU(), nn.Linear(size, size))
            for _ in range(layers)
        )

    def draw(self, pixels: int, generator: torch.Generator) -> Tensor:
        """Numbers (P,) of the places to look at, of so many pixels of a map."""
        return torch.randperm(pixels, generator=generator)[: self.places]

    def forward(self, maps: Sequence[Tensor], places: Tensor) -> list[Tensor]:
        """(B, P, D) for every map of (B, F, h, w)."""
        chosen = [layer.flatten(2)[:, :, places].transpose(1, 2) for layer in maps]
        return [
            F.normalize(head(patches).float(), dim=-1)
            for head, patches in zip(self.heads, chosen, strict=True)
        ]


def contrastive_loss(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    """Mean of `patch_nce_loss` over layers, (B, P, D) each."""
    each = [patch_nce_loss(query, key) for query, key in zip(queries, keys, strict=True)]
    return torch.stack(each).mean()
