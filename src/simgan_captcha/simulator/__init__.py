"""Draws labelled captchas, with a `calibrated.Calibration` as real ones are drawn."""
