"""Draws labelled captchas, which a `calibrated.Calibration` makes similar to real ones."""
