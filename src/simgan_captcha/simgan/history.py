"""A history of refined images, so that the discriminator does not forget earlier artefacts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from simgan_captcha.errors import ShapeError


class ImageHistory:
    """A fixed number of earlier refined images, replaced at random.

    The refined batch of the discriminator has b images. The caller draws half of them from the
    history, and adds the new half to it. In a full history, these replace b/2 random images, as in
    the paper.

    Args:
        capacity: Largest number of images, at least one.
        generator: CPU generator of all random numbers.

    Source:
        SimGAN, arXiv:1612.07828, section 2.3. Deviation: until the history is full, ``draw``
        returns at most the images that it has.

    Example:
        >>> history = ImageHistory(4, torch.Generator().manual_seed(1))
        >>> history.add(torch.zeros(3, 1, 8, 8))
        >>> len(history), history.draw(2).shape
        (3, torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        if capacity < 1:
            raise ValueError(f"expected room for at least one image, got a capacity of {capacity}")
        self.capacity = capacity
        self._generator = generator
        self._images: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def images(self) -> Tensor:
        """All images in the history, (N, C, H, W), in no particular order; (0,) if it is empty."""
        return torch.empty(0) if self._images is None else self._images[: self._count]

    def draw(self, n: int) -> Tensor:
        """Draw a random sample without replacement, (n, C, H, W).

        Raises:
            ShapeError: ``n`` is larger than the number of images in the history.
        """
        if n > self._count:
            raise ShapeError(
                f"expected to draw at most the {self._count} images held, got {n}; add images first"
            )
        return self.images[self._choose(n)]

    def add(self, images: Tensor) -> None:
        """Add (B, C, H, W) images. They fill free places first, then replace random old images.

        Raises:
            ShapeError: There are more images than the capacity, or their shape differs from that
                of earlier images.
        """
        if len(images) > self.capacity:
            raise ShapeError(
                f"expected at most {self.capacity} images at once, got {len(images)}; "
                "raise the history's capacity"
            )
        if self._images is None:
            self._images = images.new_empty(self.capacity, *images.shape[1:])
        if images.shape[1:] != self._images.shape[1:]:
            raise ShapeError(
                f"expected images of {tuple(self._images.shape[1:])}, got "
                f"{tuple(images.shape[1:])}; one history holds one shape"
            )
        # Images to replace are chosen before the free places fill. So no new image is replaced.
        free = min(self.capacity - self._count, len(images))
        replaced = self._choose(len(images) - free)
        self._images[replaced] = images[free:].detach()
        self._images[self._count : self._count + free] = images[:free].detach()
        self._count += free

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` restores the history exactly."""
        return {"images": self.images, "generator": self._generator.get_state()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore a `state`, with the images on ``device``."""
        self._images, self._count = None, 0
        if len(state["images"]):
            self.add(state["images"].to(device))
        self._generator.set_state(state["generator"])

    def _choose(self, n: int) -> Tensor:
        return torch.randperm(self._count, generator=self._generator)[:n]
