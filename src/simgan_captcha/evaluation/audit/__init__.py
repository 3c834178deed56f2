"""Audit of the weaknesses of a captcha, for its owner."""
