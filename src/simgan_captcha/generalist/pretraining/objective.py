"""What the generalist's training lowers, and what is measured of it.

Shapes: B images, T output columns, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from simgan_captcha.generalist.characters import BLANK, decode
from simgan_captcha.generalist.decoding import collapsed
from simgan_captcha.generalist.network import GeneralistOutput
from simgan_captcha.generalist.pretraining.examples import IGNORED, Examples

Batch = dict[str, Tensor]
"""The fields of `Examples` as tensors."""


def loss_of(output: GeneralistOutput, examples: Batch) -> dict[str, Tensor]:
    """The parts of the loss, each a mean over what it is about.

    ``text`` is CTC per character (Graves et al. 2006). ``columns`` adds two means of the
    cross-entropy: over columns that hold a middle, and over the others. ``geometry`` is smooth L1.
    """
    log_probabilities = output.logits.float().log_softmax(-1)
    B, T, K = log_probabilities.shape
    lengths = examples["lengths"]
    ctc = F.ctc_loss(
        log_probabilities.transpose(0, 1),
        examples["texts"],
        torch.full((B,), T),
        lengths,
        reduction="none",
        zero_infinity=True,
    )
    columns = examples["columns"]
    each = F.nll_loss(
        log_probabilities.reshape(B * T, K),
        columns.reshape(-1),
        ignore_index=IGNORED,
        reduction="none",
    ).view(B, T)
    held, free = columns > BLANK, columns == BLANK
    geometry = F.smooth_l1_loss(output.geometry.float()[held], examples["geometry"][held], beta=0.2)
    return {
        "text": (ctc / lengths).mean(),
        "columns": each[held].mean() + each[free].mean(),
        "geometry": geometry,
    }


WEIGHTS = {"text": 1.0, "columns": 0.7, "geometry": 0.7}
"""What each part of the loss counts."""


def as_tensors(examples: Examples, device: torch.device) -> Batch:
    """A batch on a device; images keep their precision."""
    return {name: torch.from_numpy(v).to(device) for name, v in examples._asdict().items()}


@torch.no_grad()
def accuracy(network: torch.nn.Module, known: list[Batch]) -> dict[str, float]:
    """Shares of whole texts right, as drawn and with case ignored, by greedy decoding."""
    network.eval()
    right = folded = count = 0
    for batch in known:
        best = network(batch["images"]).logits.argmax(-1).cpu().numpy()
        texts, lengths = batch["texts"].tolist(), batch["lengths"].tolist()
        for row, text, length in zip(best, texts, lengths, strict=True):
            read, truth = decode(collapsed(row)), decode(text[:length])
            right += read == truth
            folded += read.casefold() == truth.casefold()
            count += 1
    network.train()
    return {"texts": right / count, "texts_any_case": folded / count}
