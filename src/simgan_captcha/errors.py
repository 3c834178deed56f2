"""The exceptions of this package.

    SimganCaptchaError            any error that a user can fix; the CLI prints it as one line
    ├── UsageError                the request is impossible; exit code 2
    │   ├── ConfigError           a key is unknown, or a value is out of range
    │   ├── MissingExtraError     an extra is not installed
    │   └── SchemeError           text, alphabet or image size do not fit the scheme
    ├── ImageError                bytes do not decode to the expected image
    ├── BatchError                a challenge batch cannot be unpacked
    ├── DownloadError             a server or folder does not return the expected data
    ├── StoreError                a captcha store is missing, empty or damaged
    ├── RunError                  a run folder is locked, lacks a stage, or is damaged
    │   └── TooLittleReadError    the bootstrap recognizer reads too little for a calibration
    ├── SubmissionError           the puzzle server did not accept the solutions
    └── ShapeError                tensors have shapes that do not fit together

Every message states what was expected, what was found, and what to do.
"""


class SimganCaptchaError(Exception):
    """Base class of all errors of this package that a user can fix."""

    exit_code = 1


class UsageError(SimganCaptchaError):
    """The request of the user is impossible."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key is unknown, or a value is out of range."""


class MissingExtraError(UsageError):
    """An extra of the package is needed and not installed."""


class SchemeError(UsageError):
    """A text, an alphabet, a length or an image size does not fit the scheme."""


class ImageError(SimganCaptchaError):
    """Bytes do not decode to the expected image."""


class BatchError(SimganCaptchaError):
    """A challenge batch cannot be unpacked."""


class DownloadError(SimganCaptchaError):
    """A server or a folder does not return the expected data."""


class StoreError(SimganCaptchaError):
    """A captcha store is missing, empty or damaged."""


class RunError(SimganCaptchaError):
    """A run folder is locked, lacks a stage, or is damaged."""


class TooLittleReadError(RunError):
    """The bootstrap recognizer reads too few characters with high confidence for a calibration."""


class SubmissionError(SimganCaptchaError):
    """The puzzle server did not accept the solutions."""


class ShapeError(SimganCaptchaError):
    """Tensors have shapes that do not fit together."""
