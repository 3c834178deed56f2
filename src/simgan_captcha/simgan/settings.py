"""The settings of a SimGAN training: networks, losses and Algorithm 1.

The defaults follow the paper, with the deviations that `api` lists. Methods that are newer than the
paper are off by default, and each setting names its source. This module does not import torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=1024)]

Augmentation = Literal["brightness", "translation", "cutout"]
"""Kind of a differentiable augmentation, see `augmentation`."""


class RefinerSettings(BaseModel):
    """Size of the refiner.

    ``RefinerSettings(global_skip=False)`` is the network of the paper for images of eyes. A pixel
    takes about ``blocks * 2 * 9 * features**2 / downscale**2`` multiply-adds. The network of the
    paper takes 1,470 million on 50x100 pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    channels: int = Field(default=1, ge=1, le=16)
    """C, the number of channels of the images."""
    features: Width = 64
    """F, the number of feature maps of every block."""
    blocks: int = Field(default=4, ge=1, le=64)
    """Number of residual blocks."""
    downscale: int = Field(default=1, ge=1, le=8)
    """Factor d: the blocks work at 1/d of the height and width, for 1/d² of the cost."""
    global_skip: bool = True
    """Whether the output of the network is added to the image. Otherwise the output replaces it."""
    noise: bool = False
    """Whether the network also receives a channel of random noise, so that it can draw what is
    random in real images (arXiv:1612.05424)."""
    displacement: float = Field(default=0.0, ge=0, le=64)
    """Largest displacement in pixels of the flow field that is applied before the blocks. With 0,
    as in the paper, there is no flow field. See `networks.FlowHead`."""


class DiscriminatorSettings(BaseModel):
    """Size of the discriminator; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    channels: int = Field(default=1, ge=1, le=16)
    """C, the number of channels of the images."""
    widths: tuple[Width, Width, Width, Width] = (96, 64, 32, 32)
    """Numbers of feature maps of the four hidden convolutions, 1 to 1024 each."""
    spectral_norm: bool = False
    """Whether the convolutions have spectral normalization (arXiv:1802.05957)."""
    scales: int = Field(default=1, ge=1, le=4)
    """Number of networks. The first sees the full image. Each further network sees it at half the
    size of the one before, so patches have 31, 62, ... pixels (arXiv:1711.11585)."""


class SimGANSettings(BaseModel):
    """Networks, losses and Algorithm 1.

    The settings of the paper, for images of eyes, are ``RefinerSettings(global_skip=False)``,
    pre-training for 1,000 and 200 steps, and ``discriminator_updates=1``. For ``refiner_updates``,
    its appendix has the number 50, but also the words "we update R twice"; the original project
    used 2. The paper trains by SGD at 0.001. Here both networks use Adam (momentum 0.5), which
    needs far fewer steps. The ``regularization`` of the paper cannot be used here, because it is
    the weight of a sum over pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    refiner: RefinerSettings = RefinerSettings()
    """Size of the refiner."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """Size of the discriminator."""
    batch_size: int = Field(default=32, ge=2, le=65536)
    """B, the number of images in a batch of each stream."""
    steps: int = Field(default=2000, ge=1)
    """T in Algorithm 1, the number of adversarial steps after both pre-trainings."""
    refiner_updates: int = Field(default=2, ge=1, le=1000)
    """K_g, the number of refiner updates in an adversarial step, each on a new synthetic batch."""
    discriminator_updates: int = Field(default=1, ge=1, le=1000)
    """K_d, the number of discriminator updates in an adversarial step."""
    pretrain_refiner_steps: int = Field(default=0, ge=0)
    """Number of steps on self-regularization alone; needed only without ``global_skip``."""
    pretrain_discriminator_steps: int = Field(default=100, ge=0)
    """Number of steps in which only the discriminator learns, before the adversarial steps."""
    refiner_learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Learning rate of Adam for the refiner."""
    discriminator_learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Learning rate of Adam for the discriminator. If it is larger than that of the refiner, the
    training has two time scales (arXiv:1706.08500)."""
    adversarial: Literal["cross-entropy", "hinge"] = "cross-entropy"
    """Adversarial loss: cross-entropy as in the paper, or the hinge loss (arXiv:1705.02894), see
    `losses`."""
    r1: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the gradient penalty on real images, see `losses.r1_penalty`; 0 in the paper."""
    augmentations: tuple[Augmentation, ...] = ()
    """Random changes of all images that the discriminator sees: ``brightness``, ``translation`` and
    ``cutout`` (arXiv:2006.10738). They help with few real images. The paper has none."""
    regularization: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight λ of self-regularization, in nats for a mean change of 1, which is half the range.
    With a flow field, the change is measured from the displaced image."""
    contrastive: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the patch-wise contrastive loss between image and refined image
    (arXiv:2007.15651), see `contrastive`; 0 in the paper. Use it with ``regularization=0``."""
    flow_smoothness: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the roughness of the flow field, in nats for neighbouring vectors that differ by
    one pixel per pixel. Used only with ``refiner.displacement``."""
    consistency: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the loss that lets a recognizer read refined images as it reads synthetic ones, see
    `losses.consistency_loss`; 0 in the paper."""
    features: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the adversarial loss of discriminators that see feature maps of a fixed network in
    place of pixels (arXiv:2111.01007), see `networks.FeatureDiscriminator`; 0 in the paper."""
    history_capacity: int = Field(default=2048, ge=2)
    """Number of earlier refined images kept for the discriminator; at least ``batch_size``."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay per refiner update of the averaged refiner; it is smaller in the beginning."""
    picture_every: int = Field(default=500, ge=1)
    """Number of steps between pictures, and between measurements of label agreement."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Number of steps between checkpoints."""

    @model_validator(mode="after")
    def _fits(self) -> "SimGANSettings":
        if self.refiner.channels != self.discriminator.channels:
            raise ValueError(
                f"the refiner has {self.refiner.channels} channels, the discriminator "
                f"{self.discriminator.channels}; give both the images' own"
            )
        if self.history_capacity < self.batch_size:
            raise ValueError(
                f"history_capacity is {self.history_capacity}, expected at least the batch_size of "
                f"{self.batch_size}"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Number of steps of all three phases together."""
        return self.pretrain_refiner_steps + self.pretrain_discriminator_steps + self.steps

    def with_channels(self, channels: int) -> "SimGANSettings":
        """The same settings for images with another number of channels."""
        update = {"channels": channels}
        return self.model_copy(
            update={
                "refiner": self.refiner.model_copy(update=update),
                "discriminator": self.discriminator.model_copy(update=update),
            }
        )
