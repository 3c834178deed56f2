"""The package's version, where servers and clients read it without the package's face."""

__version__ = "0.1.0"
