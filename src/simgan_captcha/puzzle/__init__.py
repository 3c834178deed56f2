"""The HackMIT 2017 captcha puzzle: artwork, answer rule, HTTP server, and the client that submits.

Only this package and `judge` know the true text of a puzzle captcha. Training code must not import
them.
"""

MOST_SOLUTIONS = 15_000
"""Greatest number of solutions in one submission."""
