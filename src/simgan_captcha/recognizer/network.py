"""The recogniser: a normalised image in, one distribution over the alphabet per character slot out.

Shapes: B batch, C channels, H and W pixels, L characters, K classes.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from simgan_captcha.errors import ConfigError
from simgan_captcha.original.network import OriginalReader
from simgan_captcha.recognizer.counting import Counting
from simgan_captcha.training.joint_batch_norm import JointBatchNorm2d

ATTENTION_HEADS = 4
"""The last of the attention reader's widths must divide by this."""

_CODE_SCALE = 0.3
"""Of the position code's slowest wave."""

_UNSEEN = 1e-3
"""Probability of a class that a slot sees nowhere, so that its logarithm is finite."""

MAP_STRIDE = 4
"""Pixels of the image to one of the attention reader's feature map."""


class ScoutOutput(NamedTuple):
    """What a reader that also tells poses says of B images."""

    logits: Tensor
    """(B, L, K)."""
    pose: Tensor
    """(B, L, 3), see `scout.pose_targets`."""
    middles: Tensor
    """(B, positions, K + 1) logits of which class has its middle there; the last: none."""
    counts: Tensor
    """(B, columns) characters left of each column of the map, see `counting`."""


def logits_of(output: Tensor | ScoutOutput) -> Tensor:
    """(B, L, K) of what a reader gave, or one that tells poses, too."""
    return output.logits if isinstance(output, ScoutOutput) else output


@dataclass(frozen=True)
class ReaderArchitecture:
    """What is needed to build a reader again."""

    height: int
    width: int
    length: int
    classes: int
    kind: Literal["attention", "original"] = "attention"
    """``attention``: one learned query a slot over a feature map. ``seed``: the 2017 convnet."""
    channels: tuple[int, int, int, int, int] = (16, 32, 48, 48, 48)
    """Output channels of the five convolutions of ``attention``."""
    pose: bool = False
    """Whether ``attention`` also tells each character's x, y and rotation, middles and counts: a
    `ScoutOutput`, see `scout`."""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @staticmethod
    def from_description(description: dict[str, Any]) -> "ReaderArchitecture":
        """From what `describe` gave."""
        return ReaderArchitecture(**{**description, "channels": tuple(description["channels"])})


def map_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the attention reader's feature map."""
    return -(-height // MAP_STRIDE), -(-width // MAP_STRIDE)


def build_reader(architecture: ReaderArchitecture) -> nn.Module:
    """A fresh reader: (B, 2, H, W) float32 in [-1, 1] -> logits (B, L, K).

    Raises:
        ConfigError: An unknown kind.
    """
    if architecture.kind == "attention":
        return AttentionReader(architecture)
    if architecture.kind == "original":
        return OriginalReader(
            architecture.height, architecture.width, architecture.length, architecture.classes
        )
    raise ConfigError(f"expected a reader of kind attention or original, got {architecture.kind!r}")


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        JointBatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _position_code(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width): half periods 1, 2, ... down and across the map, finer ones fainter.

    Deviation from the paper: whole frequencies instead of a geometric series, as the map has few
    positions; fainter, as convolutions that begin have small outputs.
    """
    frequency = torch.arange(1, width // 4 + 1)
    down, across = torch.arange(rows) / rows, torch.arange(columns) / columns
    places = torch.stack(torch.meshgrid(down, across, indexing="ij")).view(2, -1, 1)
    phase = torch.pi * frequency * places  # (2, positions, width / 4)
    code = torch.stack([phase.sin(), phase.cos()]) * _CODE_SCALE / frequency.sqrt()
    return code.permute(2, 0, 1, 3).reshape(rows * columns, width)


class AttentionReader(nn.Module):
    """Five convolutions to a map a quarter of the image, then one attention query per slot.

    About 26 MMAC on 50x100 pixels. The map is fine and narrow, as what tells i from l is a gap of
    one or two pixels. Overlapping letters keep no order of columns, so slots attend freely over the
    whole map; a position code tells where a feature lies, and a count which character it belongs to
    (see `counting`). The former begins as sines and cosines (Attention Is All You Need,
    arXiv:1706.03762, section 3.5, along both axes) and is learned on.

    Every position also tells whose middle lies there, and what a slot sees where it looks speaks
    for those classes: what letters look like is learned once, for all slots, and a slot has to
    learn only where to look. On drawn images positions are taught that (see `scout.middles_loss`).
    """

    def __init__(self, architecture: ReaderArchitecture) -> None:
        super().__init__()
        a, b, c, d, e = architecture.channels
        self.features = nn.Sequential(
            _convolution(2, a, 5, 2),
            _convolution(a, b),
            nn.MaxPool2d(2, ceil_mode=True),
            _convolution(b, c),
            _convolution(c, d),
            _convolution(d, e),
        )
        rows, columns = map_size(architecture.height, architecture.width)
        self.position = nn.Parameter(_position_code(rows, columns, e))
        self.query = nn.Parameter(torch.randn(architecture.length, e) * 0.02)
        self.key = nn.Linear(e, e, bias=False)
        self.value = nn.Linear(e, e)
        self.classify = nn.Sequential(
            nn.Linear(e, e), nn.ReLU(inplace=True), nn.Linear(e, architecture.classes)
        )
        self.pose = (
            nn.Sequential(nn.Linear(e, e), nn.ReLU(inplace=True), nn.Linear(e, 3))
            if architecture.pose
            else None
        )
        self.middles = nn.Linear(e, architecture.classes + 1)
        self.heads = ATTENTION_HEADS
        self.counting = Counting(e, architecture.length, self.heads, rows, columns)

    def forward(self, images: Tensor) -> Tensor | ScoutOutput:
        """(B, 2, H, W) -> logits (B, L, K), or with ``pose`` a `ScoutOutput`."""
        features = self.features(images).flatten(2).transpose(1, 2)  # (B, positions, E)
        count = self.counting(features)
        placed = features + self.position
        weights = self._attend(placed, count)
        slots = self._gather(weights, placed)
        middles = self.middles(features)
        seen = (weights.mean(1) @ middles.softmax(-1))[..., :-1]  # (B, L, K)
        logits: Tensor = self.classify(slots) + (seen + _UNSEEN).log()
        if self.pose is None:
            return logits
        return ScoutOutput(logits, self.pose(slots), middles, count)

    def _attend(self, placed: Tensor, count: Tensor) -> Tensor:
        """Where slots look: (B, heads, L, positions), of each slot and head a distribution.

        Queries are the same for all images, so what they ask of a key is asked of the features
        themselves: keys, three times as many numbers, need not be made. What a key's bias would
        add is the same everywhere, so it has none.
        """
        # Not torch's fused attention: what it makes of an added term cannot be exported to ONNX.
        queries = self.query.view(-1, self.heads, self.query.shape[1] // self.heads)
        asked = queries.transpose(0, 1) @ self._of_heads(self.key) / math.sqrt(queries.shape[-1])
        alike = (placed @ asked.flatten(0, 1).mT).mT  # (B, heads * L, positions)
        of_codes = asked @ self.counting.codes(count)[:, None].mT  # (B, heads, L, columns)
        of_column = of_codes + self.counting.leaning(count)
        rows, columns = self.counting.rows, self.counting.columns
        alike = alike.reshape(-1, *asked.shape[:2], rows, columns) + of_column.unsqueeze(3)
        return alike.flatten(3).softmax(-1)

    def _gather(self, weights: Tensor, placed: Tensor) -> Tensor:
        """(B, L, E): the values where slots look, made of the features there, as sums commute."""
        seen = (weights.flatten(1, 2) @ placed).view(*weights.shape[:3], -1)  # (B, heads, L, E)
        attended = seen @ self._of_heads(self.value).mT
        return attended.transpose(1, 2).flatten(2) + self.value.bias

    def _of_heads(self, layer: nn.Linear) -> Tensor:
        """(heads, E / heads, E): the rows of a layer's weight that are each head's."""
        return layer.weight.view(self.heads, -1, layer.in_features)
