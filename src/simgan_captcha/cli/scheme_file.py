"""The commented scheme file that ``simgan-captcha init`` writes."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, StrictUndefined

from simgan_captcha.data.inspect import FirstLook
from simgan_captcha.scheme import Scheme
from simgan_captcha.shown import one_line

_SCHEME_FILE = """\
# A scheme for simgan-captcha, proposed from {{ looked_at }} of the {{ files }} images in
# {{ folder }}. Compare it with {{ sheet }}, correct it, then:
#
#   simgan-captcha run RUN --scheme {{ name }} --images {{ folder }} --preset quick

# All characters that a text may contain.
{% if "alphabet" in guessed %}
# A guess: remove characters that never occur, and add missing ones.
{% endif %}
{% if "alphabet" in remarks %}
# {{ remarks.alphabet }}
{% endif %}
alphabet = {{ alphabet }}

# Characters that look the same and count as one, as in ["o0", "1lI"]. The first of each
# group belongs to the alphabet and is read for all of them; the others do not belong to it.
equivalents = []

# Number of characters in a text. If it varies: the least and the greatest, as in [4, 6].
{% if "length" in guessed %}
# A guess: letters that touch count as one.
{% endif %}
{% if "length" in remarks %}
# {{ remarks.length }}
{% else %}
# Separate stretches of ink: {{ stretches }} of the images.
{% endif %}
length = {{ length }}

# Size in pixels at which images are read.{{ other_sizes }}
width = {{ scheme.width }}
height = {{ scheme.height }}

# shared: all images have the same picture behind the text, and the same size.
# plain: the background has one colour, which may differ between images of any size.
# varying: as plain, but with gradients, clouds or areas of different colours.
background = "{{ scheme.background }}"

# Height of a text in pixels at that size, approximately.
text_height = {{ scheme.text_height }}

# Width of a text. If lengths vary: of a text of medium length.
text_width = {{ scheme.text_width }}

# init cannot detect these two. Look at the images; a wrong value can cost accuracy.
# wavy_baseline: texts follow waves that bend their letters.
# multiple_fonts: texts are set in different fonts.
wavy_baseline = false
multiple_fonts = false

# What crosses the letters in every image: "lines" (straight or curved), "dots", "texture"
# (grain about as fine as the strokes). A guess: look at the images and correct it.
clutter = {{ clutter }}

# Also found; a run finds these by itself:
# - ink: {{ ink }}
# - text: rows {{ rows }}
# - lines that all images share: {{ lined }} of the pixels
"""
"""Jinja template of the scheme file."""


def scheme_text(
    look: FirstLook,
    scheme: Scheme,
    folder: Path,
    name: str,
    given: Collection[str] = (),
    remarks: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Write a scheme file with comments. The comments mark guessed values.

    Args:
        look: Measurements of the images in the folder.
        scheme: Proposed scheme, see `scheme_of`.
        folder: Folder of the images, which the comments name.
        name: Name of the scheme file.
        given: Those of ``alphabet`` and ``length`` that the user gave.
        remarks: Explanations of ``alphabet`` and ``length`` that were found in the images.
    """
    stretches = ", ".join(
        f"{count} in {images / look.stretches.total():.0%}"
        for count, images in look.stretches.most_common(4)
    )
    others = look.sizes.total() - look.sizes[look.size]
    fate = "set aside" if scheme.shares_picture else "scaled"
    brightness = "brighter" if look.background.bright_ink else "darker"
    ink = f"{brightness} than the background" if scheme.shares_picture else "as far from it"
    template = Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    ).from_string(_SCHEME_FILE)
    return template.render(
        looked_at=f"{look.looked_at:,}",
        files=f"{look.files:,}",
        folder=one_line(str(folder)),  # a comment must not contain control characters
        name=name,
        sheet=f"{Path(name).stem}.png",
        scheme=scheme,
        length=json.dumps(scheme.length),
        guessed={"alphabet", "length"} - {*given, *remarks},
        remarks=remarks,
        alphabet=json.dumps(scheme.alphabet, ensure_ascii=False),
        stretches=stretches,
        other_sizes=f" {others} of {look.sizes.total()} have another size: {fate}."
        if others
        else "",
        clutter=json.dumps(scheme.clutter),
        ink=f"{ink}, about {look.background.ink_level:.0f} of 255"
        + (", coloured" if look.coloured_ink else ""),
        rows=f"{look.rows[0]} to {look.rows[1]}",
        lined=f"{look.background.line_mask.mean():.1%}",
    )
