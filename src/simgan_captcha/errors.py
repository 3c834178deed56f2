"""The exceptions this package raises on purpose.

    SimganCaptchaError            something a user can act on; the CLI prints it as one line
    ├── UsageError                what was asked cannot be: exit code 2
    │   ├── ConfigError           an unknown key or a value out of range
    │   ├── MissingExtraError     a part of the installation that was left out
    │   └── SchemeError           text, alphabet or image size do not fit the scheme
    ├── ImageError                bytes that are not the image they should be
    ├── BatchError                a challenge batch that cannot be unpacked at all
    ├── DownloadError             a server or folder that does not give what it should
    ├── StoreError                a captcha store that is missing, empty or damaged
    ├── RunError                  a run folder that is locked, missing a stage, or damaged
    │   └── TooLittleReadError    a scout that knows too little for calibration
    ├── SubmissionError           the puzzle server did not take the solutions
    └── ShapeError                tensors that do not fit together

Every message says what was expected, what was got, and what to do.
"""


class SimganCaptchaError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class UsageError(SimganCaptchaError):
    """What the user asked for cannot be done as asked."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown configuration key, or a value out of its range."""


class MissingExtraError(UsageError):
    """What needs an extra that is not installed."""


class SchemeError(UsageError):
    """Text, alphabet, length or image size that do not fit the scheme."""


class ImageError(SimganCaptchaError):
    """Bytes that do not decode to the image they should be."""


class BatchError(SimganCaptchaError):
    """A challenge batch that cannot be unpacked at all."""


class DownloadError(SimganCaptchaError):
    """A server or a folder that does not give what it should."""


class StoreError(SimganCaptchaError):
    """A captcha store that is missing, empty or damaged."""


class RunError(SimganCaptchaError):
    """A run folder that is locked, lacks a stage, or is damaged."""


class TooLittleReadError(RunError):
    """A scout that reads too few characters surely to calibrate with."""


class SubmissionError(SimganCaptchaError):
    """The puzzle server did not accept the solutions."""


class ShapeError(SimganCaptchaError):
    """Tensors whose shapes do not fit together."""
