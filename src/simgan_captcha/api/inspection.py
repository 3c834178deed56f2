"""Inspection of unlabelled images of an unknown captcha family."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simgan_captcha.api.images import image_folder
from simgan_captcha.errors import SimganCaptchaError
from simgan_captcha.scheme import Length, Scheme, check_scheme, least_and_greatest

if TYPE_CHECKING:
    from simgan_captcha.api.images import Images
    from simgan_captcha.data.inspect import FirstLook
    from simgan_captcha.generalist.survey import Survey
    from simgan_captcha.generalist.two_kinds import TwoKinds


@dataclass(frozen=True)
class Inspection:
    """Measurements of unlabelled images, and a proposed scheme."""

    scheme: Scheme
    """Proposed scheme, which the user should compare with the images."""
    doubts: tuple[str, ...]
    """Sentences about possible mistakes of the scheme."""
    look: "FirstLook" = field(repr=False)
    """Measurements of the images."""
    survey: "Survey | None" = field(repr=False)
    """Alphabet and length found by the generalist; None if this installation has no generalist, or
    the generalist does not know the alphabet."""
    texts: tuple[str, ...] = field(repr=False)
    """Texts that the generalist reads in ``look.pictures``."""
    remarks: dict[str, str] = field(repr=False)
    """Sentences that explain the proposed alphabet and length."""

    @property
    def sheet(self) -> bytes:
        """A contact sheet of some images with the generalist's readings, as PNG."""
        from simgan_captcha.data.images import contact_sheet

        return contact_sheet(self.look.pictures, self.texts)


def inspect(
    images: "Images",
    *,
    alphabet: str | None = None,
    length: Length | None = None,
    recursive: bool = False,
) -> Inspection:
    """Inspect up to 500 unlabelled images, as ``simgan-captcha init`` does.

    Args:
        images: A folder of images, a captcha store or a list, see `learn`.
        alphabet: All characters that texts may contain; None uses those that the generalist finds.
        length: Number of characters, or the least and the greatest number; None uses the length
            that the generalist finds.
        recursive: Whether subfolders are included.

    Raises:
        UsageError: There are no images.
        ImageError: Fewer than two images can be decoded.
        ConfigError: The alphabet or the length is not allowed in a scheme.
    """
    from simgan_captcha.data.inspect import doubts, look_at, scheme_of

    with image_folder(images) as folder:
        look = look_at(folder, recursive=recursive)
    lengths = None if length is None else least_and_greatest(length)
    survey, texts, kinds = _survey(look, alphabet, lengths)
    found = [*doubts(look), *([] if kinds is None else [_kinds_in_words(look, kinds)])]
    remarks: dict[str, str] = {}
    if survey is not None and survey.alphabet:
        found += _doubts(survey, lengths)
        if alphabet is None and len(survey.alphabet) > 1:
            alphabet, remarks["alphabet"] = survey.alphabet, _alphabet_in_words(survey)
        if lengths is None:
            lengths, remarks["length"] = survey.lengths, _length_in_words(survey)
    scheme = scheme_of(look, alphabet, lengths)
    return Inspection(scheme, tuple(found), look, survey, texts, remarks)


def _survey(
    look: "FirstLook", alphabet: str | None, lengths: tuple[int, int] | None
) -> "tuple[Survey | None, tuple[str, ...], TwoKinds | None]":
    """Survey of the images by the generalist, its texts, and the two kinds if there are two."""
    from simgan_captcha.data.background import without_background
    from simgan_captcha.generalist.reader import GeneralistReader
    from simgan_captcha.generalist.survey import survey
    from simgan_captcha.generalist.two_kinds import two_kinds

    try:
        reader = GeneralistReader(alphabet, lengths)
    except SimganCaptchaError:  # no weights, or characters that it does not know
        return None, (), None
    pictures = look.pictures
    if look.kind == "shared":
        pictures = tuple(without_background(pictures, look.background))
    found = [reader.evidence(picture) for picture in pictures]
    texts = tuple(one.text for one in found)
    return survey(found, reader.alphabet.characters), texts, two_kinds(look.pictures, texts)


def _kinds_in_words(look: "FirstLook", kinds: "TwoKinds") -> str:
    """Sentence that names both kinds, the larger one first."""
    from simgan_captcha.shown import few_of

    named = [
        [name for name, second in zip(look.names, kinds.second, strict=True) if second == which]
        for which in (False, True)
    ]
    both = " and ".join(f"{len(names)} images ({few_of(names[:3], len(names))})" for names in named)
    return (
        f"there seem to be two kinds of captcha: {both} differ in {kinds.properties[0]} and "
        f"{kinds.properties[1]}; put each kind into a folder of its own, and learn each in a run"
    )


def _alphabet_in_words(survey: "Survey") -> str:
    """Sentence that explains the proposed alphabet."""
    words = f"Found in {survey.images} images by the generalist: {', '.join(survey.groups)}"
    return words + (f"; never seen: {survey.unseen}" if survey.unseen else "") + ". Compare."


def _length_in_words(survey: "Survey") -> str:
    """Sentence that explains the proposed length."""
    share = f"{survey.length_share:.0%}"
    return f"Estimated by the generalist for {share} of the images."


def _doubts(survey: "Survey", lengths: tuple[int, int] | None) -> list[str]:
    """Sentences about the results that the user should check."""
    found = []
    if survey.confidence < _UNSURE:
        found.append(
            f"the generalist is unsure of these images ({survey.confidence:.0%} a character); "
            "compare alphabet and length with the contact sheet"
        )
    if lengths is None and survey.lengths[0] != survey.lengths[1]:
        found.append(
            f"texts of {survey.lengths[0]} to {survey.lengths[1]} characters were found; if all "
            "have one length, give it with --length"
        )
    return found


_UNSURE = 0.8
"""Mean probability of a character below which the user should check the result."""


def changed_scheme(scheme: Scheme, alphabet: str | None, length: Length | None) -> Scheme:
    """Replace alphabet and length of a scheme if they are given."""
    values = scheme.model_dump()
    if alphabet is not None:
        values["alphabet"] = alphabet
    if length is not None:
        values["length"] = length
    return check_scheme(values)
