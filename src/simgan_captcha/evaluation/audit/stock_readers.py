"""Comparison of the run with ready-made readers that an attacker can use without training."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from simgan_captcha.data.images import evenly
from simgan_captcha.errors import ConfigError, RunError, UsageError
from simgan_captcha.evaluation.casing import in_one_case
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.inference.reader import NamedImage, Source
from simgan_captcha.inference.readings import Reading
from simgan_captcha.scheme import Scheme

READ = 200
"""Largest number of real images that each stock reader reads."""

ReadOne = Callable[[bytes], str]
"""A function that reads one encoded image."""


@dataclass(frozen=True)
class StockRow:
    """Agreement of a stock reader with the reader of the run."""

    name: str
    images: int = 0
    agrees: tuple[float, float, float] | None = None
    """Share of whole texts that agree with those of the run, and its 95 % interval."""
    texts_per_hour: float | None = None
    """Number of texts in an hour of processor time of one core."""
    skipped: str | None = None
    """Reason why there are no figures."""


class _MissingError(Exception):
    """A stock reader is not available; the message states the reason."""


def check_stock_readers(names: Sequence[str]) -> None:
    """Check that all names are known, before anything is measured.

    Raises:
        UsageError: A name is unknown.
    """
    for name in names:
        if name not in _STOCK:
            raise UsageError(f"expected --with {' or '.join(_STOCK)}, got {name!r}")


def stock_rows(
    names: Sequence[str],
    images: Sequence[tuple[str, bytes]],
    texts: Mapping[str, str],
    scheme: Scheme,
) -> Iterator[StockRow]:
    """Compare the generalist and each named stock reader with the run.

    True texts are unknown without labels, so texts are compared with those of the run. Readers that
    were trained separately rarely make the same mistake in a whole text.

    Args:
        names: Names of stock readers, see `check_stock_readers`.
        images: Names and encoded bytes of real images.
        texts: Texts of the run by image name.
        scheme: Scheme of the run. Anybody who sees the captcha knows its alphabet and length.
    """
    known = [image for image in images if image[0] in texts]
    some = evenly(known, READ)
    for name, make in {"generalist": _generalist, **{name: _STOCK[name] for name in names}}.items():
        try:
            read = make(scheme)
        except _MissingError as missing:
            yield StockRow(name, skipped=str(missing))
            continue
        began = time.process_time()
        said = [_read_or_nothing(read, data) for _, data in some]
        seconds = time.process_time() - began
        right = sum(
            _comparable(text, scheme) == _comparable(texts[image], scheme)
            for text, (image, _) in zip(said, some, strict=True)
        )
        yield StockRow(
            name,
            len(some),
            (right / max(1, len(some)), *wilson_interval(right, len(some))),
            3600 * len(some) / seconds if seconds else None,
        )


def _read_or_nothing(read: ReadOne, data: bytes) -> str:
    try:
        return read(data)
    except Exception:  # a foreign reader may raise anything; it has not read this image
        return ""


def _comparable(text: str, scheme: Scheme) -> str:
    """Reduce a text to the alphabet, in one case unless the alphabet has both."""
    letters = {c for c in scheme.alphabet if c.isalpha()}
    if not any(c.swapcase() in letters for c in letters):
        text = in_one_case(text, scheme)
    return "".join(c for c in scheme.fold(text) if c in scheme.alphabet)


def _generalist(scheme: Scheme) -> ReadOne:
    from simgan_captcha.generalist.reader import GeneralistReader

    try:
        reader = GeneralistReader(scheme.alphabet, scheme.length, threads=1)
    except RunError:
        raise _MissingError("this version of the package comes without its weights") from None
    except ConfigError as error:
        raise _MissingError(f"it cannot read this scheme: {error}") from None

    def read(data: bytes) -> str:
        images: list[Source] = [NamedImage("image", data)]
        (reading,) = reader.read(images)
        return reading.text if isinstance(reading, Reading) else ""

    return read


def _ddddocr(scheme: Scheme) -> ReadOne:
    try:
        import ddddocr
    except ImportError as error:
        raise _MissingError(
            f"it is not installed ({error}); run pip install ddddocr, then audit again"
        ) from None
    reader = ddddocr.DdddOcr(show_ad=False)

    def read(data: bytes) -> str:
        return str(reader.classification(data))

    return read


_STOCK: dict[str, Callable[[Scheme], ReadOne]] = {"ddddocr": _ddddocr}
