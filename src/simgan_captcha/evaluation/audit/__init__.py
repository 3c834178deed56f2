"""Measures how weak a captcha is, for its owner."""
