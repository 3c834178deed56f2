"""Web pages of a run: read images, follow the progress, review the readings."""
