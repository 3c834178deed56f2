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
# A scheme for simgan-captcha, from {{ looked_at }} of the {{ files }} images in
# {{ folder }}. Look at {{ sheet }}, correct what is wrong here, then:
#
#   simgan-captcha run RUN --scheme {{ name }} --images {{ folder }}

# Every character that a text may hold, each once.
{% if "alphabet" in guessed %}
# A guess: leave out what never occurs, add what does.
{% endif %}
{% if "alphabet" in remarks %}
# {{ remarks.alphabet }}
{% endif %}
alphabet = {{ alphabet }}

# Characters that look the same and count as one, as in ["o0", "1lI"]: the first of each
# stands in the alphabet and is read for all, the others do not.
alike = []

# Characters in every text; where their number varies, in the longest and the shortest.
{% if "length" in guessed %}
# A guess: letters that touch are seen as one.
{% endif %}
{% if "length" in remarks %}
# {{ remarks.length }}
{% else %}
# Stretches of ink side by side: {{ stretches }} of the images.
{% endif %}
length = {{ scheme.length }}
{{ "shortest = %d" % scheme.shortest if scheme.shortest else "# shortest =" }}

# Pixels that an image is read at.{{ other_sizes }}
width = {{ scheme.width }}
height = {{ scheme.height }}

# shared: all images have one picture behind the text, and one size. plain: behind it
# is one colour, each image's own or that of all; any size is scaled to fit. varying:
# likewise, but colours run into each other (gradients, clouds) or lie side by side.
background = "{{ scheme.background }}"

# Pixels from the top of a text to its foot, about, at that size.
text_height = {{ scheme.text_height }}

# And from its left end to its right one; where lengths vary, of one of middle length.
text_width = {{ scheme.text_width }}

# Nothing here can see these two, and each may cost accuracy where it is not so: look at
# the images. Whether texts stand on waves that bend their letters; whether they are of
# different fonts.
waves = false
several_fonts = false

# Elsewhere in every image, among the letters: lines (straight or curved), dots, texture
# (a grain about as fine as strokes). A guess: look at the images, leave out what they do
# not have, add what they do.
clutter = {{ clutter }}

# Seen as well; a run finds it by itself:
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
