"""Images of any kind as endless numbered batches, which a killed training can open where it was.

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
"""``stream(n)``: the endless batches from number n on, (B, C, H, W) float32 in [-1, 1]; batch k is
the same whenever and from wherever it is asked for."""


class ImageDataset(Protocol):
    """A map-style dataset, as PyTorch's: images by number, alone or first in a tuple."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Images = Tensor | npt.NDArray[Any] | ImageDataset | Iterable[Any] | BatchStream
"""What `to_stream` takes."""


def to_stream(images: Images, batch_size: int, seed: int) -> BatchStream:
    """Endless batches of images.

    Args:
        images: One of these:

            - A tensor or an array of all images, (N, H, W) or (N, C, H, W).
            - A map-style dataset or a list of images. It is shuffled anew in every epoch.
            - An iterable of images, or of batches of four dimensions, as a ``DataLoader`` gives. It
              is taken in its order and begun again at its end. A generator cannot be begun again,
              so it must not end. A training that is resumed skips what it had taken.
            - A `BatchStream`. It is passed through.

            An image is a Pillow image, or a tensor or an array of (H, W) or (C, H, W). Its values
            are ``uint8``, or float in [-1, 1]. Of a tuple or a list, as datasets give images with
            their labels, the first is the image.
        batch_size: B.
        seed: Decides the order of datasets.

    Raises:
        UsageError: There are no images, or they are of no such kind.
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
    """One image, or one batch of four dimensions, as float32 in [-1, 1]: (C, H, W), (B, C, H, W).

    Raises:
        ShapeError: Neither ``uint8`` nor float, or of other dimensions.

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
    """Batches of a dataset: one random order of all images after another, without gaps."""

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
    """Batches of an iterable in its order; of a generator only the first can be had twice."""

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
    """A stream, counted and checked; opened at its count when the first batch is asked for."""

    def __init__(
        self, name: str, stream: BatchStream, expected: tuple[int, int], device: torch.device
    ) -> None:
        self.count = 0
        self._name, self._stream, self._device = name, stream, device
        self._expected = expected
        self._iterator: Iterator[Tensor] | None = None

    def next(self) -> Tensor:
        """The next batch, (B, C, H, W)."""
        if self._iterator is None:
            self._iterator = self._stream(self.count)
        self.count += 1
        return self._checked(next(self._iterator))

    def first(self) -> Tensor:
        """Batch 0, uncounted."""
        return self._checked(next(self._stream(0)))

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[:2] != self._expected:
            raise ShapeError(
                f"expected {self._name} batches of {(*self._expected, 'H', 'W')}, got "
                f"{tuple(images.shape)}; change batch_size or channels, or the stream"
            )
        low, high = images.min().item(), images.max().item()
        # Images of two ranges are told apart at a glance, and the discriminator wins.
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
