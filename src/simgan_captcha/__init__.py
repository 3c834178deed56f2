"""Reads short text in images, having learned without a single label.

    import simgan_captcha as sc

    run = sc.learn("captchas/", alphabet="0123456789", length=4)
    run.estimate, run.read("one.png").text, run.export("reader.onnx")

Everything but the schemes and the errors is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from simgan_captcha._version import __version__
from simgan_captcha.errors import SimganCaptchaError
from simgan_captcha.scheme import HACKMIT_2017, Scheme

if TYPE_CHECKING:
    from simgan_captcha import simgan
    from simgan_captcha.api.inspection import Inspection, inspect
    from simgan_captcha.api.learning import Run, learn
    from simgan_captcha.api.reading import read
    from simgan_captcha.inference.reader import Reader, Unreadable
    from simgan_captcha.inference.readings import Reading

__all__ = [
    "HACKMIT_2017",
    "Inspection",
    "Reader",
    "Reading",
    "Run",
    "Scheme",
    "SimganCaptchaError",
    "Unreadable",
    "__version__",
    "inspect",
    "learn",
    "read",
    "simgan",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in ("Run", "learn"):
        from simgan_captcha.api import learning

        return getattr(learning, name)
    if name in ("Inspection", "inspect"):
        from simgan_captcha.api import inspection

        return getattr(inspection, name)
    if name == "read":
        from simgan_captcha.api.reading import read

        return read
    if name in ("Reader", "Unreadable"):
        from simgan_captcha.inference import reader

        return getattr(reader, name)
    if name == "Reading":
        from simgan_captcha.inference.readings import Reading

        return Reading
    if name == "simgan":
        import simgan_captcha.simgan

        return simgan_captcha.simgan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
