"""Trains the generalist from the command line."""

from simgan_captcha.generalist.pretraining.train import main

if __name__ == "__main__":
    main()
