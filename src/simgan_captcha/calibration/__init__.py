"""Fit the simulator to unlabelled images: how letters look, where they lie, how they are rendered.

In the order of the flow: `poses` (what a scout, `reader.scout`, says of images), `glyph_fit`
(shapes and exact poses, by drawing the images again), `rendering_fit` (ink, blur, codec, by image
statistics), `font_match` (which known font draws alike, how large), `calibration` (what the
simulator shall draw). No label is seen.
"""
