"""The recognizer: network, training, adaptation, decoding, export."""
