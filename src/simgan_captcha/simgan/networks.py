"""The refiner and the discriminator of SimGAN, arXiv:1612.07828, appendix, for images of any size.

Shapes: B batch, C channel, H and W in pixels, F features, d downscale. The networks have no batch
normalization, because the brightness of an image must not affect the other images of the batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from simgan_captcha.errors import RunError, ShapeError
from simgan_captcha.simgan.settings import DiscriminatorSettings, RefinerSettings
from simgan_captcha.training.checkpoint import load_weights, save_weights

REAL, REFINED = 0, 1
"""The two classes of the discriminator, as indices along dimension 1 of its logits."""


_FLOW_FEATURES = 16
"""Number of feature maps of the flow head, which is small in comparison with the refiner."""

_FLOW_CELL = 4
"""Distance in pixels between the vectors of the flow field. Interpolation between them keeps the
field smooth within a stroke."""


class Refinement(NamedTuple):
    """A refined batch with its intermediate results."""

    refined: Tensor
    """The refined images (B, C, H, W), in [-1, 1]."""
    displaced: Tensor
    """The images (B, C, H, W) after the flow field and before the blocks. Without a flow head, they
    are the input images."""
    flow: Tensor | None
    """Displacement (B, 2, H, W) in pixels to the right and downwards; None without a flow head."""


class FlowHead(nn.Module):
    """A smooth displacement of every pixel: (B, C, H, W) -> (B, 2, H, W), in pixels.

    The layers are two 3x3 convolutions on the image, a mean over cells of 4x4 pixels, and two 3x3
    convolutions. Their output passes through tanh, is multiplied by the largest displacement, and
    is interpolated bilinearly to the size of the image. The displacement moves strokes and changes
    their width. Without it, the network must redraw them for that. The last convolution starts at
    zero, so an untrained head displaces nothing.

    Source:
        Spatial transformer networks, arXiv:1506.02025, for sampling a moved grid with
        `grid_sample`. Spatially transformed images, arXiv:1801.02612, for the dense flow field.
    """

    def __init__(self, settings: RefinerSettings) -> None:
        super().__init__()
        self.settings = settings
        width = _FLOW_FEATURES
        self.fine = nn.Sequential(
            nn.Conv2d(settings.channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.coarse = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.leave = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the flow field of (B, C, H, W) float images in [-1, 1]."""
        cells = F.avg_pool2d(self.fine(images), _FLOW_CELL, ceil_mode=True)
        vectors = self.leave(self.coarse(cells)).float().tanh() * self.settings.displacement
        return F.interpolate(vectors, images.shape[2:], mode="bilinear", align_corners=False)


def displace(images: Tensor, flow: Tensor) -> Tensor:
    """Move the content of images by a flow field. Outside of an image, its edge is repeated.

    Args:
        images: Images (B, C, H, W), float.
        flow: Flow field (B, 2, H, W), float. A vector (1, 0) moves the content one pixel to the
            right.

    Returns:
        Images (B, C, H, W). Pixel (y, x) is the image at (y - flow_y, x - flow_x), interpolated
        bilinearly.

    Example:
        >>> image = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]])
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> displace(image, right).round().flatten().tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device, dtype=flow.dtype).view(-1, 1)
    x = torch.arange(width, device=images.device, dtype=flow.dtype)
    # Coordinates of grid_sample: the image spans -1 to 1, and pixel x has its centre at x + 0.5.
    across = (2 * (x - flow[:, 0]) + 1) / width - 1
    down = (2 * (y - flow[:, 1]) + 1) / height - 1
    grid = torch.stack([across, down], -1)
    return F.grid_sample(images.to(flow.dtype), grid, padding_mode="border", align_corners=False)


class Refiner(nn.Module):
    """Makes synthetic images look real: (B, C, H, W) -> (B, C, H, W), in [-1, 1].

    The layers are a 3x3 convolution, ``blocks`` residual blocks, and a 1x1 convolution. A block is
    a 3x3 convolution, a ReLU and a 3x3 convolution. Its input is added to the output, and another
    ReLU follows.

    Source:
        SimGAN, arXiv:1612.07828, appendix "Refiner Network" (tanh at the end).
        Deviations, which the settings of the paper turn off:

        - ``global_skip`` adds the output of the network to the image, and clamps the sum in place
          of tanh. The last convolution starts at zero. So an untrained refiner is exactly the
          identity, and needs no pre-training.
        - ``downscale`` first moves d x d pixels into channels, and moves them back at the end.
          Images of any size are allowed. If d does not divide the size, the edge of the image is
          repeated, and the result is cropped.
        - ``noise`` adds a channel of uniform noise in [-1, 1] to the input of the network. The
          random state of torch determines it.
        - ``displacement`` first moves the image by a `FlowHead`.

    Example:
        >>> Refiner(RefinerSettings(channels=3, features=8))(torch.zeros(2, 3, 20, 30)).shape
        torch.Size([2, 3, 20, 30])
    """

    def __init__(self, settings: RefinerSettings) -> None:
        super().__init__()
        self.settings = settings
        moved = settings.channels * settings.downscale**2
        entering = (settings.channels + settings.noise) * settings.downscale**2
        self.enter = nn.Conv2d(entering, settings.features, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(settings.features) for _ in range(settings.blocks))
        self.leave = nn.Conv2d(settings.features, moved, 1)
        if settings.global_skip:
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        self.flow = FlowHead(settings) if settings.displacement else None

    def forward(self, images: Tensor) -> Tensor:
        """Refine (B, C, H, W) float images in [-1, 1]; shape and range do not change.

        Raises:
            ShapeError: The images do not have four dimensions, or not C channels.
        """
        return self.explain(images).refined

    def explain(self, images: Tensor) -> Refinement:
        """Refine as `forward` does, and also return the displaced images and the flow field."""
        _check_images(images, self.settings.channels)
        flow = None if self.flow is None else self.flow(images)
        displaced = images if flow is None else displace(images, flow)
        _, _, H, W = images.shape
        x = self.leave(self.features(displaced)[-1])
        x = F.pixel_shuffle(x, self.settings.downscale)[:, :, :H, :W]
        if not self.settings.global_skip:
            return Refinement(x.tanh(), displaced, flow)
        clamped: Tensor = _Clamp.apply(displaced + x)  # type: ignore[no-untyped-call]
        return Refinement(clamped, displaced, flow)

    def _with_noise(self, images: Tensor) -> Tensor:
        """Images with the channel of noise, if the network has one."""
        if not self.settings.noise:
            return images
        B, _, H, W = images.shape
        noise = torch.rand(B, 1, H, W) * 2 - 1  # drawn on the CPU: the same on every device
        return torch.cat([images, noise.to(images)], 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Outputs of the first convolution and of every block, (B, F, H/d, W/d) each."""
        _, _, H, W = images.shape
        images = self._with_noise(images)
        d = self.settings.downscale
        x = F.pad(images, (0, -W % d, 0, -H % d), mode="replicate") if d > 1 else images
        layers = [F.relu(self.enter(F.pixel_unshuffle(x, d)))]
        for block in self.blocks:
            layers.append(block(layers[-1]))
        return layers


class Discriminator(nn.Module):
    """Classifies patches as real or refined: (B, C, H, W) -> logits (B, 2, h, w).

    There is a pair of logits (`REAL`, `REFINED`) for each of about H/4 x W/4 overlapping patches of
    31x31 pixels. With several ``scales``, each scale has its own network. Logits of smaller images
    are repeated to the size of the largest, so that each scale has the same weight in a mean. The
    logits of all scales are concatenated along h.

    Source:
        SimGAN, arXiv:1612.07828, appendix "Discriminator Network": 3x3/2 convolution, 3x3/2,
        3x3/1 max-pool, 3x3, 3x3/1 max-pool, 1x1, 1x1 to two channels. The loss applies the softmax
        over the two channels. There is no ReLU after the last convolution, because logits must be
        able to become negative.
        Several scales come from pix2pixHD, arXiv:1711.11585, section 3.2. The paper has one.
    """

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.layers = _patch_layers(settings)
        self.coarser = nn.ModuleList(_patch_layers(settings) for _ in range(settings.scales - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, 2, h, w) of (B, C, H, W) float images in [-1, 1].

        Raises:
            ShapeError: The images do not have four dimensions, or not C channels.
        """
        _check_images(images, self.settings.channels)
        logits: list[Tensor] = [self.layers(images)]
        for layers in self.coarser:
            images = F.avg_pool2d(images, 2, ceil_mode=True)
            logits.append(F.interpolate(layers(images), logits[0].shape[2:], mode="nearest"))
        return torch.cat(logits, 2) if len(logits) > 1 else logits[0]


def _patch_layers(settings: DiscriminatorSettings) -> nn.Sequential:
    a, b, c, d = settings.widths
    layers = nn.Sequential(
        nn.Conv2d(settings.channels, a, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(a, b, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(b, c, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(c, d, 1),
        nn.ReLU(),
        nn.Conv2d(d, 2, 1),
    )
    if settings.spectral_norm:
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                _normalized(layer)
    return layers


class FeatureDiscriminator(nn.Module):
    """Classifies places of feature maps as real or refined; the maps come from a fixed network.

    A network that was trained for another task, such as reading, describes strokes and letters from
    the first step on. A discriminator of pixels has to learn them. Each map has its own network: a
    1x1 and two 3x3 convolutions with spectral normalization.

    Args:
        channels: Number of channels of each map.
        width: Number of feature maps of the hidden layers.

    Source:
        Projected GANs, arXiv:2111.01007. Deviation: the maps are not mixed by random convolutions.
    """

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                _normalized(nn.Conv2d(count, width, 1)),
                nn.LeakyReLU(0.2),
                _normalized(nn.Conv2d(width, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                _normalized(nn.Conv2d(width, 2, 3, padding=1)),
            )
            for count in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Compute logits (B, 2, h, w) of each map (B, c, h, w)."""
        return [head(each.float()) for head, each in zip(self.heads, maps, strict=True)]


def _normalized(layer: nn.Module) -> nn.Module:
    normalized: nn.Module = nn.utils.parametrizations.spectral_norm(layer)
    return normalized


def save_refiner(path: Path, refiner: Refiner) -> None:
    """Write weights and settings to a safetensors file, and the settings also to a JSON file."""
    settings = refiner.settings.model_dump(mode="json")
    save_weights(path, refiner.state_dict(), {"network": "Refiner", "settings": settings})


def load_refiner(path: Path) -> Refiner:
    """Load the refiner that `save_refiner` wrote, in evaluation mode, on the CPU.

    Raises:
        RunError: The file is missing or damaged, or contains another network.
    """
    tensors, description = load_weights(path)
    try:
        if description["network"] != "Refiner":
            raise ValueError(f"it holds a {description['network']}")
        refiner = Refiner(RefinerSettings.model_validate(description["settings"]))
        refiner.load_state_dict(tensors)
    except (KeyError, ValueError, ValidationError, RuntimeError) as error:
        raise RunError(
            f"expected a refiner at {path}, it is none ({error}); give a refiner.safetensors"
        ) from error
    return refiner.eval()


class _Block(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class _Clamp(torch.autograd.Function):
    """Clamp to [-1, 1]. Outside this range, gradients that lead back into it still pass.

    A plain clamp has zero gradient outside the range. If one bad step pushed a background of -1
    below the range, it would never come back. The gradient of tanh also vanishes there, and tanh
    never reaches -1 and +1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        further_out = ((x > 1) & (gradient < 0)) | ((x < -1) & (gradient > 0))
        return gradient.masked_fill(further_out, 0)


def _check_images(images: Tensor, channels: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels:
        raise ShapeError(
            f"expected images of (B, {channels}, H, W), got {tuple(images.shape)}; "
            "reshape them or change the network's channels"
        )
