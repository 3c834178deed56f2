"""The recognizer: logits over the alphabet for each character slot of a normalised image.

Shapes: B images, C channels, H and W pixels, L characters, K classes.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from simgan_captcha.errors import ConfigError
from simgan_captcha.original.network import OriginalRecognizer
from simgan_captcha.recognizer.counting import Counting
from simgan_captcha.recognizer.settings import ATTENTION_HEADS
from simgan_captcha.training.joint_batch_norm import JointBatchNorm2d

_LARGEST = 4200
"""Upper bound of every size of a recognizer. A scheme has at most 4,096 pixels per side, 4,096
characters, and one more class."""

_CODE_SCALE = 0.3
"""Amplitude of the slowest wave of the position code."""

_UNSEEN = 1e-3
"""Probability added to each class before the logarithm, so that it is finite."""

_MAPS = (1, 3, 5)
"""Layers of the attention recognizer whose outputs are `AttentionRecognizer.feature_maps`."""

MAP_STRIDE = 4
"""Image pixels per pixel of the feature map of the attention recognizer."""


class PosedOutput(NamedTuple):
    """Output of a recognizer with a pose head for B images."""

    logits: Tensor
    """(B, L, K) logits of the slots."""
    pose: Tensor
    """(B, L, 3) poses, see `bootstrap.pose_targets`."""
    middles: Tensor
    """(B, positions, K + 1) logits of the class centred at each position; the last is none."""
    counts: Tensor
    """(B, columns) number of characters left of each column of the map, see `counting`."""


def logits_of(output: Tensor | PosedOutput) -> Tensor:
    """The logits (B, L, K) of a recognizer with or without a pose head."""
    return output.logits if isinstance(output, PosedOutput) else output


@dataclass(frozen=True)
class RecognizerArchitecture:
    """The parameters that define a recognizer."""

    height: int
    width: int
    length: int
    classes: int
    kind: Literal["attention", "original"] = "attention"
    """``attention`` has one learned query per slot over a map; ``original`` is the 2017 network."""
    channels: tuple[int, int, int, int, int] = (16, 32, 48, 48, 48)
    """Output channels of the five convolutions of ``attention``."""
    pose: bool = False
    """Whether ``attention`` also predicts x, y and rotation, centres and counts, as a
    `PosedOutput`, see `bootstrap`."""

    def describe(self) -> dict[str, Any]:
        """The architecture as plain values."""
        return asdict(self)

    @staticmethod
    def from_description(description: dict[str, Any]) -> "RecognizerArchitecture":
        """The architecture from the values of `describe`.

        Raises:
            KeyError, TypeError, ValueError: The values are not from `describe`.
        """
        described = RecognizerArchitecture(
            **{**description, "channels": tuple(description["channels"])}
        )
        sizes = (described.height, described.width, described.length, described.classes)
        for size in (*sizes, *described.channels):
            if type(size) is not int or not 1 <= size <= _LARGEST:
                raise ValueError(f"expected sizes from 1 to {_LARGEST}, got {size!r}")
        if len(described.channels) != 5 or described.channels[-1] % ATTENTION_HEADS:
            raise ValueError(
                f"expected five channels, the last divisible by {ATTENTION_HEADS}, got "
                f"{described.channels}"
            )
        return described


def map_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the feature map of the attention recognizer."""
    return -(-height // MAP_STRIDE), -(-width // MAP_STRIDE)


def build_recognizer(architecture: RecognizerArchitecture) -> nn.Module:
    """Build an untrained recognizer: (B, 2, H, W) float32 in [-1, 1] -> logits (B, L, K).

    Raises:
        ConfigError: The kind is unknown.
    """
    if architecture.kind == "attention":
        return AttentionRecognizer(architecture)
    if architecture.kind == "original":
        return OriginalRecognizer(
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
    """Position code (rows * columns, width): sines and cosines of pi * n * position.

    Deviations from the paper: frequencies n are 1, 2, ..., because the map has few positions. The
    amplitude falls with the square root of n, because new convolutions have small outputs.
    """
    frequency = torch.arange(1, width // 4 + 1)
    down, across = torch.arange(rows) / rows, torch.arange(columns) / columns
    places = torch.stack(torch.meshgrid(down, across, indexing="ij")).view(2, -1, 1)
    phase = torch.pi * frequency * places  # (2, positions, width / 4)
    code = torch.stack([phase.sin(), phase.cos()]) * _CODE_SCALE / frequency.sqrt()
    return code.permute(2, 0, 1, 3).reshape(rows * columns, width)


class AttentionRecognizer(nn.Module):
    """Five convolutions to a map of a quarter of the resolution, then one attention query per slot.

    About 26 MMAC on 50x100 pixels. The map is fine and narrow, because i and l differ by a gap of
    one or two pixels. Overlapping letters have no order of columns, so slots attend to the whole
    map. A position code gives the location of a feature, and a count gives the index of its
    character (see `counting`). The position code is learned. It starts as sines and cosines along
    both axes (Attention Is All You Need, arXiv:1706.03762, section 3.5).

    Each position also predicts the class of the character that is centred there. The logits of a
    slot are its own plus the logarithm of these predictions, averaged by attention. The shapes of
    letters are therefore learned once for all slots, and a slot learns only where to look.
    Synthetic images supervise the positions (see `bootstrap.middles_loss`).
    """

    def __init__(self, architecture: RecognizerArchitecture) -> None:
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

    def forward(self, images: Tensor) -> Tensor | PosedOutput:
        """Map images (B, 2, H, W) to logits (B, L, K), or to a `PosedOutput` with ``pose``."""
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
        return PosedOutput(logits, self.pose(slots), middles, count)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the second, third and last convolution for images (B, 2, H, W)."""
        maps, x = [], images
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in _MAPS:
                maps.append(x)
        return maps

    def _attend(self, placed: Tensor, count: Tensor) -> Tensor:
        """Attention weights (B, heads, L, positions), which sum to 1 over the positions.

        Queries are the same for all images, and q (W f) = (q W) f. The product of query and key
        weights is therefore applied to the features, and no keys are computed. A bias of the keys
        would add the same value everywhere, so there is none.
        """
        # Torch's fused attention with an added term cannot be exported to ONNX.
        queries = self.query.view(-1, self.heads, self.query.shape[1] // self.heads)
        asked = queries.transpose(0, 1) @ self._of_heads(self.key) / math.sqrt(queries.shape[-1])
        alike = (placed @ asked.flatten(0, 1).mT).mT  # (B, heads * L, positions)
        of_codes = asked @ self.counting.codes(count)[:, None].mT  # (B, heads, L, columns)
        of_column = of_codes + self.counting.leaning(count)
        rows, columns = self.counting.rows, self.counting.columns
        alike = alike.reshape(-1, *asked.shape[:2], rows, columns) + of_column.unsqueeze(3)
        return alike.flatten(3).softmax(-1)

    def _gather(self, weights: Tensor, placed: Tensor) -> Tensor:
        """Attended values (B, L, E). Features are summed before the value layer (linear)."""
        seen = (weights.flatten(1, 2) @ placed).view(*weights.shape[:3], -1)  # (B, heads, L, E)
        attended = seen @ self._of_heads(self.value).mT
        return attended.transpose(1, 2).flatten(2) + self.value.bias

    def _of_heads(self, layer: nn.Linear) -> Tensor:
        """The weight of a layer as (heads, E / heads, E)."""
        return layer.weight.view(self.heads, -1, layer.in_features)
