"""Loads an exported recognizer, and checks its operators, metadata, inputs and outputs.

Shapes: N images, H and W pixels, L characters.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgan_captcha._version import FORMAT
from simgan_captcha.atomic import core_count
from simgan_captcha.documents import parse_object
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.inference.family import Family
from simgan_captcha.inference.onnx_file import require_safe
from simgan_captcha.inference.readings import require_probabilities, require_readings
from simgan_captcha.scheme import Scheme, check_scheme
from simgan_captcha.types import Floats, GreyImages, Ids

Recognize = Callable[[GreyImages], tuple[Ids, Floats]]
"""``recognize(images)``: (N, H, W) ``uint8`` -> class ids (N, L) and their probabilities (N, L)."""

Probabilities = Callable[[GreyImages], Floats]
"""``probabilities(images)``: (N, H, W) ``uint8`` -> those of all classes (N, L, K)."""

METADATA = "simgan_captcha"
"""Metadata key of an exported recognizer: JSON with its ``format``, ``version`` and ``scheme``."""

IMAGES, IDS, CONFIDENCE, PROBABILITIES = "images", "ids", "confidence", "probabilities"
"""Names of the input and the outputs of an exported recognizer."""

_MAX_MODEL_BYTES = 512_000_000


@dataclass(frozen=True)
class Exported:
    """A loaded and checked recognizer."""

    scheme: Scheme
    version: str
    """Version of the package that wrote the file."""
    taught: int
    """Number of labels that the recognizer was taught with."""
    recognize: Recognize
    probabilities: Probabilities
    family: Family | None
    """Look of the images that it learned from; None if they were not there at the export."""


def load_exported(file: str | os.PathLike[str] | bytes, threads: int | None = None) -> Exported:
    """Load an exported recognizer. Only operators that recognizers use are executed.

    Args:
        file: Path or bytes of the file.
        threads: Number of threads of the network; by default the number of cores.

    Raises:
        RunError: The file is missing, too large, damaged or not an exported recognizer, or gives
            invalid output for a blank image.
    """
    try:
        return _loaded(file if isinstance(file, bytes) else _model_bytes(Path(file)), threads)
    except FileNotFoundError:
        raise RunError(
            f"expected an exported reader at {file!s}, found none; write one with "
            "simgan-captcha export RUN reader.onnx"
        ) from None
    except (OSError, ValueError, RunError) as error:
        where = "in these bytes" if isinstance(file, bytes) else f"at {file!s}"
        raise RunError(
            f"expected an exported reader {where}, could not load it ({error}); export it again "
            "with simgan-captcha export RUN reader.onnx"
        ) from None


def _loaded(data: bytes, threads: int | None) -> Exported:
    require_safe(data)
    session = _session(data, threads)
    scheme, version, taught, family = _described(session.get_modelmeta().custom_metadata_map)
    _require_ends(session, scheme)

    def recognize(images: GreyImages) -> tuple[Ids, Floats]:
        ids, confidence = _run(session, [IDS, CONFIDENCE], images)
        if ids.shape != (len(images), scheme.max_length) or confidence.shape != ids.shape:
            raise RunError(
                f"expected {scheme.max_length} characters of each image, the reader gave "
                f"{ids.shape} and {confidence.shape}; export it again"
            )
        return np.asarray(ids, np.int64), np.asarray(confidence, np.float32)

    def probabilities(images: GreyImages) -> Floats:
        (found,) = _run(session, [PROBABILITIES], images)
        return require_probabilities(scheme, np.asarray(found, np.float32), len(images))

    # A blank image shows errors that shapes and types do not.
    blank = np.zeros((1, scheme.height, scheme.width), np.uint8)
    require_readings(scheme, *recognize(blank))
    probabilities(blank)
    return Exported(scheme, version, taught, recognize, probabilities, family)


def _model_bytes(path: Path) -> bytes:
    if path.stat().st_size > _MAX_MODEL_BYTES:
        raise ValueError(f"larger than {_MAX_MODEL_BYTES} bytes")
    return path.read_bytes()


def _session(data: bytes, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or core_count()
    options.log_severity_level = 3  # errors only; they are also raised
    return _of_onnxruntime(
        lambda: onnxruntime.InferenceSession(
            data,  # not a path, so that the file cannot refer to other files
            options,
            providers=["CPUExecutionProvider"],
            # This optimizer splits one product over all images into a product for each image.
            disabled_optimizers=["MatmulTransposeFusion"],
        )
    )


def _run(session: Any, names: list[str], images: GreyImages) -> Any:
    return _of_onnxruntime(lambda: session.run(names, {IMAGES: images}))


def _of_onnxruntime(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime"):
            raise RunError(f"onnxruntime refused it: {str(error)[:300]}") from None
        raise


def _described(metadata: dict[str, str]) -> tuple[Scheme, str, int, Family | None]:
    if METADATA not in metadata:
        raise ValueError(f"its metadata has no {METADATA}")
    described = parse_object(metadata[METADATA])
    if described.get("format") != FORMAT:
        raise ValueError(f"another version of simgan-captcha wrote it, not in format {FORMAT}")
    version, values = described.get("version"), described.get("scheme")
    if not isinstance(version, str) or not version:
        raise ValueError("its metadata does not say which version wrote it")
    if not isinstance(values, dict):
        raise ValueError("its metadata holds no scheme")
    taught = described.get("taught_labels")
    if not isinstance(taught, int) or isinstance(taught, bool) or taught < 0:
        raise ValueError("its metadata does not say how many labels it was taught with")
    images = described.get("images")
    family = None if images is None else Family.from_description(images)
    try:
        return check_scheme(values), version, taught, family
    except ConfigError as error:
        raise ValueError(f"its metadata holds no scheme: {error}") from None


def _require_ends(session: Any, scheme: Scheme) -> None:
    """Check the names, types and shapes of the input and the outputs."""
    of_each = [None, scheme.max_length]
    expected = [
        (IMAGES, "tensor(uint8)", [None, scheme.height, scheme.width]),
        (IDS, "tensor(int64)", of_each),
        (CONFIDENCE, "tensor(float)", of_each),
        (PROBABILITIES, "tensor(float)", [*of_each, scheme.classes]),
    ]
    ends = [*session.get_inputs(), *session.get_outputs()]
    # The number of images is not fixed, and appears as a name or None.
    found = [(e.name, e.type, [s if isinstance(s, int) else None for s in e.shape]) for e in ends]
    if sorted(found, key=str) != sorted(expected, key=str):
        raise ValueError(f"it maps {found}, its scheme needs {expected}"[:600])
