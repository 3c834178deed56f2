"""The system of 2017, kept for comparison: its generator, its network and its preset."""
