"""Shared parts of all training: checkpoints, metrics, batch streams, several processes."""
