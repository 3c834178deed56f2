"""What every training shares: checkpoints, metrics, batch streams, several processes."""
