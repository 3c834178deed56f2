"""Settings of downloads and of the background. This module needs no NumPy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Lines = Literal["contrast", "average", "and"]
"""Methods of finding shared lines, see `estimate_background`."""


class DownloadSettings(BaseModel):
    """Rate, retries and redirects of downloads, and whether subfolders are searched."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    concurrency: int = Field(default=4, ge=1, le=64)
    """Maximum number of simultaneous requests."""
    requests_per_second: float = Field(default=5.0, gt=0)
    """Maximum rate of requests, including retries and redirects."""
    attempts: int = Field(default=5, ge=1, le=100)
    """Maximum number of requests for one batch."""
    redirect_hosts: tuple[str, ...] = ()
    """Other allowed hosts of redirects, each as ``host`` or ``host:port``."""
    recursive: bool = False
    """Whether subfolders of a folder of images are searched."""
