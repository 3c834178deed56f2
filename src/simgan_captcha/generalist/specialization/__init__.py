"""Self-training of the generalist on the images of one family."""
