"""The settings of a SimGAN training: networks, losses and Algorithm 1. Imports no torch.

The defaults are this package's form of the paper. Everything that came after the paper is off by
default; each setting names its source.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=1024)]

Augmentation = Literal["brightness", "translation", "cutout"]
"""A kind of differentiable augmentation, see `augmentation`."""


class RefinerSettings(BaseModel):
    """Size of the refiner; the paper's, for eyes: ``RefinerSettings(global_skip=False)``.

    Cost: ``blocks * 2 * 9 * features**2 / downscale**2`` multiply-adds a pixel, to the first order:
    1,470 million for the paper's on 50x100 pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    channels: int = Field(default=1, ge=1, le=16)
    """C, of what goes in and of what comes out."""
    features: Width = 64
    """F, feature maps of every block."""
    blocks: int = Field(default=4, ge=1, le=64)
    """ResNet blocks."""
    downscale: int = Field(default=1, ge=1, le=8)
    """d: the blocks see the image at 1/d of its height and width, for 1/d² of the cost."""
    global_skip: bool = True
    """True: the network learns what to add to the image. False: it draws the image anew."""
    displacement: float = Field(default=0.0, ge=0, le=64)
    """Largest displacement in pixels of the flow field that is applied before the blocks; 0, as in
    the paper, builds none. See `networks.FlowHead`."""
    flow_features: Width = 16
    """Feature maps of the flow head."""
    flow_cell: int = Field(default=4, ge=1, le=64)
    """Pixels between the vectors of the flow field; it is interpolated between them."""


class DiscriminatorSettings(BaseModel):
    """Size of the discriminator; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    channels: int = Field(default=1, ge=1, le=16)
    """C of the images it judges."""
    widths: tuple[Width, Width, Width, Width] = (96, 64, 32, 32)
    """Feature maps of its four hidden convolutions, 1 to 1024 each."""
    spectral_norm: bool = False
    """Whether no convolution may stretch anything (spectral normalisation, arXiv:1802.05957)."""
    scales: int = Field(default=1, ge=1, le=4)
    """Number of networks: the first judges the image, each further one the image at half the size
    of the one before, so patches of 31, 62, ... pixels (arXiv:1711.11585)."""


class SimGANSettings(BaseModel):
    """Networks, losses and Algorithm 1.

    The paper's own, for eyes: ``RefinerSettings(global_skip=False)``, pre-training for 1,000 and
    200 steps, ``discriminator_updates=1``. For ``refiner_updates`` its appendix prints 50 beside
    the words "we update R twice"; the original project took 2. It trains with plain SGD at 0.001;
    here both networks use Adam (momentum 0.5), which needs far fewer steps. Its regularization
    weighs a sum over pixels, so it does not carry over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    refiner: RefinerSettings = RefinerSettings()
    """Size of the refiner."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """Size of the discriminator."""
    batch_size: int = Field(default=32, ge=2, le=65536)
    """B: images of every batch, from both streams."""
    steps: int = Field(default=2000, ge=1)
    """Adversarial steps, T in Algorithm 1, after both pre-trainings."""
    refiner_updates: int = Field(default=2, ge=1, le=1000)
    """K_g: refiner updates in one adversarial step, each on a fresh synthetic batch."""
    discriminator_updates: int = Field(default=1, ge=1, le=1000)
    """K_d: discriminator updates in one adversarial step."""
    pretrain_refiner_steps: int = Field(default=0, ge=0)
    """Steps on self-regularisation alone; needed only without ``global_skip``."""
    pretrain_discriminator_steps: int = Field(default=100, ge=0)
    """Steps of the discriminator alone, against the refiner as it is then."""
    refiner_learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Adam's step size for the refiner."""
    discriminator_learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Adam's step size for the discriminator. A larger one than the refiner's gives two time scales
    (arXiv:1706.08500)."""
    adversarial: Literal["cross-entropy", "hinge"] = "cross-entropy"
    """Adversarial loss: the paper's, or the hinge loss (arXiv:1705.02894), see `losses`."""
    r1: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the gradient penalty on real images, see `losses.r1_penalty`; 0, as in the paper,
    computes none."""
    augmentations: tuple[Augmentation, ...] = ()
    """Random changes of all images that the discriminator sees, of ``brightness``, ``translation``
    and ``cutout`` (arXiv:2006.10738), for few real images; none in the paper."""
    regularization: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """λ: nats that a mean change of 1 (half the range, in every pixel) costs the refiner. With a
    flow field, the change of the displaced image."""
    contrastive: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the patch-wise contrastive loss between image and refined image
    (arXiv:2007.15651), see `contrastive`; use it with ``regularization=0``. 0, as in the paper,
    computes none."""
    flow_smoothness: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Nats that a flow field costs whose neighbouring vectors differ by one pixel per pixel; only
    with ``refiner.displacement``."""
    consistency: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of a recogniser's word that the refined image says what the synthetic one says, see
    `losses.consistency_loss`; 0, as in the paper, does without."""
    history_capacity: int = Field(default=2048, ge=2)
    """Past refined images kept for the discriminator; at least ``batch_size``."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay, per refiner update, of the averaged refiner that is kept; less in the beginning."""
    picture_every: int = Field(default=500, ge=1)
    """Steps between pictures, and between measurements of label agreement."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""

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
        """Steps of all three phases together."""
        return self.pretrain_refiner_steps + self.pretrain_discriminator_steps + self.steps

    def with_channels(self, channels: int) -> "SimGANSettings":
        """The same settings for images of so many channels."""
        update = {"channels": channels}
        return self.model_copy(
            update={
                "refiner": self.refiner.model_copy(update=update),
                "discriminator": self.discriminator.model_copy(update=update),
            }
        )
