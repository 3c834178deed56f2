"""Settings of downloads and of the background. This module needs no NumPy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Lines = Literal["contrast", "average", "and"]
"""Methods of finding shared lines, see `estimate_background`."""


class DownloadSettings(BaseModel):
    """How politely and how patiently batches are fetched."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests under way at once."""
    requests_per_second: float = Field(default=5.0, gt=0)
    """Never more, retries and redirects included."""
    attempts: int = Field(default=5, ge=1, le=100)
    """Times one batch is asked for before it is given up."""
    backoff_seconds: float = Field(default=0.5, ge=0)
    """First wait between attempts; it doubles each time, with as much jitter added."""
    max_wait_seconds: float = Field(default=30.0, ge=0)
    """Longest wait between attempts, whatever the server's Retry-After says."""
    silence_seconds: float = Field(default=15.0, gt=0)
    """A server that sends nothing for so long is given up."""
    request_seconds: float = Field(default=120.0, gt=0)
    """A whole request, body included, may take so long."""
    max_batch_bytes: int = Field(default=64 * 2**20, ge=1)
    """Larger batches are cut and refused."""
    redirect_hosts: tuple[str, ...] = ()
    """Other hosts that redirects may lead to, each as ``host`` or ``host:port``."""
    recursive: bool = False
    """Whether folders within a folder of images are looked into."""
