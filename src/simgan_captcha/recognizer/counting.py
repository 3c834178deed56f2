"""Counting of the characters left of each column, so that each slot finds its own.

Texts can lie anywhere and letters have different widths, so the third letter has no fixed place.
Slots that attend by position alone learn slowly which letter is theirs. The slots in the middle are
the slowest.

Here each position of the map predicts which part of a character is centred there. The sum from the
left is a count. Continuous integrate-and-fire (arXiv:1905.11235, section 2.1) does the same along
time. Attention receives the count as a code, and as a bias of each slot towards its own count.

Shapes: B images, L characters, E channels. The map has R rows and W columns.
"""

import math

import torch
from torch import Tensor, nn

_NARROWNESS = 0.5
"""Initial value before the softplus, so that slots overlap at first."""


class Counting(nn.Module):
    """Counts characters from left to right on a feature map."""

    frequency: Tensor
    middle: Tensor

    def __init__(self, channels: int, length: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.density = nn.Linear(channels, 1)
        self.code = nn.Linear(2 * length, channels)
        self.narrowness = nn.Parameter(torch.full((heads,), _NARROWNESS))
        # The density starts uniform, with the sum L, so slots start as strips of equal width.
        nn.init.zeros_(self.density.weight)
        nn.init.constant_(self.density.bias, math.log(math.expm1(length / (rows * columns))))
        waves = torch.pi * torch.arange(1, length + 1) / (length + 1)
        self.register_buffer("frequency", waves, persistent=False)
        self.register_buffer("middle", torch.arange(length) + 0.5, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, R * W, E) to counts (B, W) left of the middle of each column.

        Counts include parts of characters.
        """
        density = nn.functional.softplus(self.density(features))
        of_column = density.view(features.shape[0], self.rows, self.columns).sum(1)
        return of_column.cumsum(1) - of_column / 2

    def codes(self, count: Tensor) -> Tensor:
        """Codes (B, W, E) of counts (B, W), the same in all rows."""
        phase = count[..., None] * self.frequency
        codes: Tensor = self.code(torch.cat([phase.sin(), phase.cos()], -1))
        return codes

    def leaning(self, count: Tensor) -> Tensor:
        """Attention bias (B, heads, L, W): 0 at the count of a slot, and negative elsewhere."""
        apart = (count[:, None] - self.middle[:, None]).square()  # (B, L, W)
        narrowness = nn.functional.softplus(self.narrowness)[:, None, None]
        return -narrowness * apart[:, None]


def counting_loss(count: Tensor, places: Tensor) -> Tensor:
    """Mean absolute error of counts.

    Args:
        count: (B, W) counts, see `Counting`.
        places: (B, L) int64 index of the map cell at the centre of each character, row by row;
            negative for empty slots.
    """
    columns = count.shape[1]
    column = (places % columns).where(places >= 0, columns)[..., None]
    at = torch.arange(columns, device=places.device)
    truth = ((column < at).float() + 0.5 * (column == at)).sum(1)
    return (count.float() - truth).abs().mean()
