"""The 2017 project's system, kept for comparison: its generator, its network, its preset."""
