"""The generalist's network: an image of any width in, a distribution over characters a column out.

Shapes: B images, 40 rows, W columns, T = W / 4 output columns, K classes (`characters.CLASSES`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.generalist.characters import CLASSES
from simgan_captcha.generalist.features import CHANNELS, HEIGHT, input_width
from simgan_captcha.training.checkpoint import load_weights

GEOMETRY = 4
"""Number of values that each column predicts for the character at its centre."""


class GeneralistOutput(NamedTuple):
    """What the network finds in B images."""

    logits: Tensor
    """(B, T, K); class 0 is the blank."""
    geometry: Tensor
    """(B, T, 4) pose of the character at each column. x of its centre, in columns from the centre
    of the column. y of its centre, in image heights from the centre of the image. Log of the height
    of a capital, in image heights. Rotation in radians."""


def _convolution(
    inputs: int, outputs: int, size: int = 3, stride: int | tuple[int, int] = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two convolutions whose result is added to their input (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class _Mixer(nn.Module):
    """Pre-norm self-attention along the width, then a two-layer perceptron.

    A depthwise convolution before the attention distinguishes neighbouring columns. It serves as a
    relative position code for any width (Chu et al., arXiv:2102.10882).
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x.transpose(1, 2)).transpose(1, 2)
        B, T, D = x.shape
        q, k, v = (
            part.view(B, T, self.heads, D // self.heads).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        x = x + self.out(mixed)
        return x + self.feed(self.feed_norm(x))  # type: ignore[no-any-return]


class Generalist(nn.Module):
    """Residual convolutions to 5 rows and a quarter of the columns, then two attention layers.

    About 1.1 million parameters and 150 million multiplications for an image of 40 by 120 pixels.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (32, 64, 112, 144)) -> None:
        super().__init__()
        first, second, third, columns = widths
        self.stem = nn.Sequential(_convolution(CHANNELS, first, 5, 2), _convolution(first, first))
        self.middle = nn.Sequential(
            _convolution(first, second, 3, 2), _Residual(second), _Residual(second)
        )
        self.high = nn.Sequential(
            _convolution(second, third, 3, (2, 1)), _Residual(third), _Residual(third)
        )
        self.columns = nn.Conv2d(third, columns, (HEIGHT // 8, 1))
        self.mixers = nn.Sequential(_Mixer(columns), _Mixer(columns))
        self.norm = nn.LayerNorm(columns)
        self.logits = nn.Linear(columns, CLASSES)
        self.geometry = nn.Linear(columns, GEOMETRY)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the convolutions at 1/2, 1/4 and 1/8 of the rows, for images (B, 4, 40, W)."""
        fine = self.stem(images)
        middle = self.middle(fine)
        return [fine, middle, self.high(middle)]

    def forward(self, images: Tensor) -> GeneralistOutput:
        """Logits and geometry of images (B, 4, 40, W), float32, W a multiple of 4."""
        x = self.feature_maps(images)[-1]
        x = self.columns(x).squeeze(2).transpose(1, 2)  # (B, T, columns)
        x = self.norm(self.mixers(x))
        return GeneralistOutput(self.logits(x), self.geometry(x))


def count_forward_flops(columns: int) -> int:
    """Floating-point operations of one image of so many input columns; a multiply-add is two."""
    with torch.device("meta"):
        network, image = Generalist().eval(), torch.empty(1, CHANNELS, HEIGHT, columns)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())


def features_of_ink(network: Generalist) -> Callable[[Tensor], list[Tensor]]:
    """A function from ink (B, 1, H, W) in [-1, 1] to `Generalist.feature_maps`, with gradients.

    The images have dark ink on white. With i = (ink + 1) / 2, the channels of `features.features`
    are i, -i, 0 and 0, because the colour differs from the median by -i in red, green and blue.
    """
    network.eval().requires_grad_(False)

    def maps(ink: Tensor) -> list[Tensor]:
        height, width = ink.shape[2:]
        size = (HEIGHT, input_width(height, width))
        i = F.interpolate((ink + 1) / 2, size, mode="bilinear", antialias=True)
        none = torch.zeros_like(i)
        return network.feature_maps(torch.cat([i, -i, none, none], 1))

    return maps


def in_halves(network: nn.Module) -> dict[str, Tensor]:
    """The network's state with all fractions in half precision, as its files hold it."""
    state: dict[str, Tensor] = network.state_dict()
    return {name: v.half() if v.is_floating_point() else v for name, v in state.items()}


def load_generalist(path: Path) -> tuple[Generalist, dict[str, Any]]:
    """The network of a file of weights, in evaluation mode, and the file's description.

    Raises:
        RunError: The file is missing, damaged, or not written by this package.
    """
    tensors, description = load_weights(path)
    network = Generalist()
    network.load_state_dict(
        {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}
    )
    return network.eval(), description
