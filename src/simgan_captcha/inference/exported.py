"""An exported reader's file, checked whole when it is loaded: what it says, and what it does.

Shapes: N images, H and W pixels, L characters.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgan_captcha.atomic import core_count
from simgan_captcha.documents import parse_object
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.inference.onnx_file import inspect
from simgan_captcha.inference.readings import require_readings
from simgan_captcha.scheme import Scheme, check_scheme
from simgan_captcha.types import Floats, GreyImages, Ids

Recognise = Callable[[GreyImages], tuple[Ids, Floats]]
"""``recognise(images)``: (N, H, W) ``uint8`` -> class ids (N, L) and their probabilities (N, L)."""

METADATA = "simgan_captcha"
"""Key of an exported reader's metadata: JSON with its ``scheme`` and its ``version``."""

IMAGES, IDS, CONFIDENCE = "images", "ids", "confidence"
"""Names of an exported reader's input and outputs."""

_MAX_MODEL_BYTES = 512_000_000


@dataclass(frozen=True)
class Exported:
    """An exported reader that was found whole."""

    scheme: Scheme
    version: str
    """Of the package that wrote the file."""
    taught: int
    """Number of labels that it was taught with."""
    recognise: Recognise


def load_exported(file: str | os.PathLike[str] | bytes, threads: int | None = None) -> Exported:
    """Load an exported reader; nothing in it is executed but operators that readers have.

    Args:
        file: Its path, or its bytes.
        threads: That the network runs in; as many as there are cores by default.

    Raises:
        RunError: Missing, too large, damaged, or not an exported reader; or it reads a blank image
            as no reader would.
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
    classes = inspect(data).classes
    session = _session(data, threads)
    scheme, version, taught = _described(session.get_modelmeta().custom_metadata_map)
    if classes is not None and classes != scheme.classes:
        raise ValueError(
            f"it tells {classes} classes apart, its scheme has {scheme.classes}: its alphabet "
            "was changed"
        )
    _require_ends(session, scheme)

    def recognise(images: GreyImages) -> tuple[Ids, Floats]:
        ids, confidence = _run(session, images)
        if ids.shape != (len(images), scheme.length) or confidence.shape != ids.shape:
            raise RunError(
                f"expected {scheme.length} characters of each image, the reader gave {ids.shape} "
                f"and {confidence.shape}; export it again"
            )
        return np.asarray(ids, np.int64), np.asarray(confidence, np.float32)

    # What shapes and types do not tell, one image does.
    require_readings(scheme, *recognise(np.zeros((1, scheme.height, scheme.width), np.uint8)))
    return Exported(scheme, version, taught, recognise)


def _model_bytes(path: Path) -> bytes:
    if path.stat().st_size > _MAX_MODEL_BYTES:
        raise ValueError(f"larger than {_MAX_MODEL_BYTES} bytes")
    return path.read_bytes()


def _session(data: bytes, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or core_count()
    options.log_severity_level = 3  # errors alone: they are raised, too
    return _of_onnxruntime(
        lambda: onnxruntime.InferenceSession(
            data,  # not a path, so that it cannot name other files to be read
            options,
            providers=["CPUExecutionProvider"],
            # It makes of one product over all images a smaller one for each.
            disabled_optimizers=["MatmulTransposeFusion"],
        )
    )


def _run(session: Any, images: GreyImages) -> Any:
    return _of_onnxruntime(lambda: session.run([IDS, CONFIDENCE], {IMAGES: images}))


def _of_onnxruntime(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own have no other base
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime"):
            raise RunError(f"onnxruntime refused it: {str(error)[:300]}") from None
        raise


def _described(metadata: dict[str, str]) -> tuple[Scheme, str, int]:
    if METADATA not in metadata:
        raise ValueError(f"its metadata has no {METADATA}")
    described = parse_object(metadata[METADATA])
    version, values = described.get("version"), described.get("scheme")
    if not isinstance(version, str) or not version:
        raise ValueError("its metadata does not say which version wrote it")
    if not isinstance(values, dict):
        raise ValueError("its metadata holds no scheme")
    taught = described.get("taught_labels", 0)  # files of earlier versions do not say
    if not isinstance(taught, int) or isinstance(taught, bool) or taught < 0:
        raise ValueError("its metadata does not say how many labels it was taught with")
    try:
        return check_scheme(values), version, taught
    except ConfigError as error:
        raise ValueError(f"its metadata holds no scheme: {error}") from None


def _require_ends(session: Any, scheme: Scheme) -> None:
    """See that inputs and outputs have the names, types and shapes that readers have."""
    of_each = [None, scheme.length]
    expected = [
        (IMAGES, "tensor(uint8)", [None, scheme.height, scheme.width]),
        (IDS, "tensor(int64)", of_each),
        (CONFIDENCE, "tensor(float)", of_each),
    ]
    ends = [*session.get_inputs(), *session.get_outputs()]
    # The number of images is not fixed: a name, or None.
    found = [(e.name, e.type, [s if isinstance(s, int) else None for s in e.shape]) for e in ends]
    if sorted(found, key=str) != sorted(expected, key=str):
        raise ValueError(f"it maps {found}, its scheme needs {expected}"[:600])
