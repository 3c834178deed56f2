"""Training of the generalist on synthetic images: ``python -m`` this package."""
