"""The recogniser: network, training, adaptation, decoding, export."""
