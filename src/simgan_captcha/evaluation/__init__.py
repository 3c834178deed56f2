"""Evaluation of a run: comparison with true texts, and an audit of the captcha."""
