"""The network of 2017, kept for comparison as preset ``original``."""

from torch import Tensor, nn

from simgan_captcha.errors import ConfigError


class OriginalRecognizer(nn.Module):
    """The network of 2017: four wide convolutions and a dense head, 333 MMAC on 50x100 pixels.

    Source: 0b01/SimGAN-Captcha, "MNIST for Captcha". It reads the ink channel only, because the
    original had no line mask. Four convolutions without padding, each with a max-pool, must fit
    into the image.

    Args:
        height: H.
        width: W.
        length: L.
        classes: K.
        features: Feature maps of the four convolutions, by default as in the original. A quarter of
            them takes a sixth of the operations.
    """

    def __init__(
        self, height: int, width: int, length: int, classes: int, features: int = 128
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3), nn.ReLU(inplace=True)]
        rows, columns, channels = height - 2, width - 2, 32
        for _ in range(4):
            layers += [nn.Conv2d(channels, features, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            rows, columns, channels = (rows - 2) // 2, (columns - 2) // 2, features
        if rows < 1 or columns < 1:
            raise ConfigError(
                "the original's reader needs images of at least 48x48 pixels, got "
                f"{width}x{height}; use recognizer.kind=attention"
            )
        self.features = nn.Sequential(*layers, nn.Dropout(0.25), nn.Flatten())
        self.hidden = nn.Sequential(
            nn.Linear(features * rows * columns, 128), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )
        self.classify = nn.Linear(128, length * classes)
        self.length = length

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 2, H, W) to logits (B, L, K)."""
        logits: Tensor = self.classify(self.hidden(self.features(images[:, :1])))
        return logits.view(images.shape[0], self.length, -1)
