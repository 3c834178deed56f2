"""The recogniser: network, the supervised loop, adaptation by self-training, reading."""
