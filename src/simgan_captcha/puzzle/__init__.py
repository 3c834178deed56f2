"""The HackMIT 2017 captcha puzzle: artwork, answer rule, HTTP server, and the client that submits.

The only place, with `judge`, where the true text of a puzzle captcha exists. Nothing that learns
may import it.
"""
