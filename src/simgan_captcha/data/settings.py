"""Settings of downloads and of the background. This module needs no NumPy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Lines = Literal["contrast", "average", "and"]
"""Methods of finding shared lines, see `estimate_background`."""


class DownloadSettings(BaseModel):
    """Limits, timeouts and retries of downloads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    concurrency: int = Field(default=4, ge=1, le=64)
    """Maximum number of simultaneous requests."""
    requests_per_second: float = Field(default=5.0, gt=0)
    """Maximum rate of requests, including retries and redirects."""
    attempts: int = Field(default=5, ge=1, le=100)
    """Maximum number of requests for one batch."""
    backoff_seconds: float = Field(default=0.5, ge=0)
    """First wait between attempts. It doubles each time, plus a random wait up to this value."""
    max_wait_seconds: float = Field(default=30.0, ge=0)
    """Longest wait between attempts, even if the server's Retry-After is longer."""
    silence_seconds: float = Field(default=15.0, gt=0)
    """Timeout for a server that sends nothing."""
    request_seconds: float = Field(default=120.0, gt=0)
    """Timeout for a whole request, including its body."""
    max_batch_bytes: int = Field(default=64 * 2**20, ge=1)
    """Maximum size of a batch; larger ones are refused."""
    redirect_hosts: tuple[str, ...] = ()
    """Other allowed hosts of redirects, each as ``host`` or ``host:port``."""
    recursive: bool = False
    """Whether subfolders of a folder of images are searched."""
