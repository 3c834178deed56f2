"""The wide simulator: draws families of captchas, in colour, then images of each."""
