"""How many characters lie left of each column: what tells a slot which of them is its own.

Where texts stand anywhere and letters are of all widths, the third letter is not at a third place:
slots that attend by place alone learn slowly which letter is theirs, and those in the middle hardly
at all. Here every position of the map says how much of a character's middle lies there; summed from
the left (as continuous integrate-and-fire does along time, arXiv:1905.11235, section 2.1) that is a
count, which attention gets as a code, and as a leaning of each slot to where its count is.

Shapes: B batch, L characters, E channels; the map has R rows and W columns.
"""

import math

import torch
from torch import Tensor, nn

_NARROWNESS = 0.5
"""Before it is made positive: at first, slots overlap."""


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
        # At first as many everywhere, all characters in all: slots begin as strips of equal width.
        nn.init.zeros_(self.density.weight)
        nn.init.constant_(self.density.bias, math.log(math.expm1(length / (rows * columns))))
        waves = torch.pi * torch.arange(1, length + 1) / (length + 1)
        self.register_buffer("frequency", waves, persistent=False)
        self.register_buffer("middle", torch.arange(length) + 0.5, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, R * W, E) -> (B, W): characters, and parts of them, left of each column's middle."""
        density = nn.functional.softplus(self.density(features))
        of_column = density.view(features.shape[0], self.rows, self.columns).sum(1)
        return of_column.cumsum(1) - of_column / 2

    def codes(self, count: Tensor) -> Tensor:
        """(B, W, E) of a count (B, W): the same in all rows."""
        phase = count[..., None] * self.frequency
        codes: Tensor = self.code(torch.cat([phase.sin(), phase.cos()], -1))
        return codes

    def leaning(self, count: Tensor) -> Tensor:
        """(B, heads, L, W) to be added to attention's logits: 0 where a slot's count is."""
        apart = (count[:, None] - self.middle[:, None]).square()  # (B, L, W)
        narrowness = nn.functional.softplus(self.narrowness)[:, None, None]
        return -narrowness * apart[:, None]


def counting_loss(count: Tensor, places: Tensor) -> Tensor:
    """Mean absolute error of a count.

    Args:
        count: (B, W), see `Counting`.
        places: (B, L) int64 position on the map of each character's middle, rows one after
            another; negative for none.
    """
    columns = count.shape[1]
    column = (places % columns).where(places >= 0, columns)[..., None]
    at = torch.arange(columns, device=places.device)
    truth = ((column < at).float() + 0.5 * (column == at)).sum(1)
    return (count.float() - truth).abs().mean()
