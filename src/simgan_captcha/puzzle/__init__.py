"""The HackMIT 2017 captcha puzzle: artwork, answer rule, HTTP server, and the client that submits.

Only this package and `judge` know the true text of a puzzle captcha. Training code must not import
them.
"""
