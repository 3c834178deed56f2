"""The files of the pretrained generalist that the package ships."""

from importlib.resources import files
from pathlib import Path

from simgan_captcha.errors import RunError


def shipped(name: str) -> Path:
    """A file of the pretrained generalist, as ``generalist.onnx``.

    Raises:
        RunError: This installation has none.
    """
    path = Path(str(files("simgan_captcha"))) / "generalist" / "weights" / name
    if not path.is_file():
        raise RunError(
            f"expected the pretrained generalist in {path}, this installation has none; learn a "
            "reader from your own images with simgan-captcha run --set pretrained=false"
        )
    return path
