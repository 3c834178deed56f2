"""A run in the browser: read images, watch it learn, look through what it read."""
