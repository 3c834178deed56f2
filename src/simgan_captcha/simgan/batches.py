"""Images of any kind as endless numbered batches, from which a stopped training can continue.

Shapes: N images, B batch, C channel, H and W in pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from simgan_captcha.errors import ShapeError, UsageError

BatchStream = Callable[[int], Iterator[Tensor]]
"""A function ``stream(n)`` that returns endless batches (B, C, H, W) float32 in [-1, 1], starting
with batch n. Batch k is always the same, for every start n."""


class ImageDataset(Protocol):
    """A map-style dataset as in PyTorch: its items are images, or tuples with the image first."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Images = Tensor | npt.NDArray[Any] | ImageDataset | Iterable[Any] | BatchStream
"""Images in any form that `to_stream` accepts."""


def to_stream(images: Images, batch_size: int, seed: int) -> BatchStream:
    """Make endless batches from images.

    Args:
        images: One of these forms:

            - A tensor or an array of all images, (N, H, W) or (N, C, H, W).
            - A map-style dataset or a list of images. Each epoch has a new random order.
            - An iterable of images, or of batches with four dimensions, such as a ``DataLoader``.
              Its order is kept, and it starts again at its end. A generator cannot start again, so
              it must not end. A resumed training skips the batches that were already used.
            - A `BatchStream`. It is returned unchanged.

            An image is a Pillow image, or a tensor or an array of (H, W) or (C, H, W). Its values
            are ``uint8``, or float in [-1, 1]. If an item is a tuple or a list, as in datasets with
            labels, its first element is the image.
        batch_size: B.
        seed: Random seed of the order of datasets.

    Raises:
        UsageError: There are no images, or they have another form.
    """
    if callable(images) and not hasattr(images, "__getitem__") and not hasattr(images, "__iter__"):
        return images
    if isinstance(images, Sized) and hasattr(images, "__getitem__"):
        if not len(images):
            raise UsageError("expected at least one image, got none; give some")
        return _Shuffled(images, batch_size, seed)
    if isinstance(images, Iterable):
        return _InOrder(images, batch_size)
    raise UsageError(
        f"expected images as a tensor, an array, a dataset or an iterable, got {type(images)}"
    )


def to_image(image: Any) -> Tensor:
    """Convert an image to (C, H, W), or a batch to (B, C, H, W), float32 in [-1, 1].

    Raises:
        ShapeError: The values are neither ``uint8`` nor float, or the number of dimensions is
            wrong.

    Example:
        >>> to_image(np.array([[0, 255]], np.uint8)).tolist()
        [[[-1.0, 1.0]]]
    """
    if isinstance(image, tuple | list):
        image = image[0]
    if isinstance(image, Image.Image):
        pixels = np.array(image)
        image = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    tensor = torch.as_tensor(image)
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim not in (3, 4):
        raise ShapeError(
            f"expected images of (H, W) or (C, H, W), got {tuple(tensor.shape)}; reshape them"
        )
    if tensor.dtype == torch.uint8:
        return tensor.float() / 127.5 - 1
    if not tensor.dtype.is_floating_point:
        raise ShapeError(
            f"expected images of uint8, or of float in [-1, 1], got {tensor.dtype}; convert them"
        )
    return tensor.float()


class _Shuffled:
    """Batches of a dataset in random order. A batch may contain images of two epochs."""

    def __init__(self, images: Any, batch_size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed

    def __call__(self, first: int) -> Iterator[Tensor]:
        order = self._order(first * self.batch_size)
        while True:
            chosen = [self.images[index] for index in islice(order, self.batch_size)]
            yield _stack([to_image(image) for image in chosen])

    def _order(self, start: int) -> Iterator[int]:
        epoch, within = divmod(start, len(self.images))
        while True:
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
            yield from shuffled[within:].tolist()
            epoch, within = epoch + 1, 0


class _InOrder:
    """Batches of an iterable in its order. A generator can only repeat its first batch."""

    def __init__(self, images: Iterable[Any], batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.once = iter(images) is images
        self.batches = self._batches()
        self.taken: list[Tensor] = []

    def __call__(self, first: int) -> Iterator[Tensor]:
        if not self.once:
            return islice(self._batches(), first, None)
        return self._rest(first)

    def _rest(self, first: int) -> Iterator[Tensor]:
        if not self.taken:
            self.taken = [next(self.batches)]
        if first == 0:
            yield self.taken[0]
        yield from islice(self.batches, max(0, first - 1), None)

    def _batches(self) -> Iterator[Tensor]:
        waiting: list[Tensor] = []
        for image in self._endless():
            waiting.append(image)
            if len(waiting) == self.batch_size:
                yield _stack(waiting)
                waiting = []

    def _endless(self) -> Iterator[Tensor]:
        while True:
            count = 0
            for item in self.images:
                image = to_image(item)
                for one in image if image.ndim == 4 else (image,):
                    count += 1
                    yield one
            if not count:
                raise UsageError(
                    "expected images without end, the iterable has no more; give a list, a "
                    "dataset, or a generator that does not end"
                )


class CheckedBatches:
    """A stream that counts and checks its batches. It opens at its count on the first use."""

    def __init__(
        self, name: str, stream: BatchStream, expected: tuple[int, int], device: torch.device
    ) -> None:
        self.count = 0
        self._name, self._stream, self._device = name, stream, device
        self._expected = expected
        self._iterator: Iterator[Tensor] | None = None

    def next(self) -> Tensor:
        """Return the next batch, (B, C, H, W)."""
        if self._iterator is None:
            self._iterator = self._stream(self.count)
        self.count += 1
        return self._checked(next(self._iterator))

    def first(self) -> Tensor:
        """Return batch 0 without counting it."""
        return self._checked(next(self._stream(0)))

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[:2] != self._expected:
            raise ShapeError(
                f"expected {self._name} batches of {(*self._expected, 'H', 'W')}, got "
                f"{tuple(images.shape)}; change batch_size or channels, or the stream"
            )
        low, high = images.min().item(), images.max().item()
        # If the ranges differ, the discriminator separates the images easily and wins.
        if images.dtype != torch.float32 or not -1 <= low <= high <= 1:
            raise ShapeError(
                f"expected {self._name} images of float32 in [-1, 1], got {images.dtype} from "
                f"{low:.4g} to {high:.4g}; scale them"
            )
        return images.to(self._device)


def _stack(images: Sequence[Tensor]) -> Tensor:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise ShapeError(f"expected images of one size, got {shapes}; bring them to the same")
    return torch.stack(list(images))
