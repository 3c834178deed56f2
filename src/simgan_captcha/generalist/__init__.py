"""The generalist: a recognizer of printed characters that learns from our own simulator alone."""
