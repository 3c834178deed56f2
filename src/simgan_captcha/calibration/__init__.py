"""Fit the simulator to unlabelled images: how letters look, where they lie, how they are rendered.

In the order of the flow: `scout` (a reader that also tells places), `poses` (what a scout says of
images), `look` with `glyph_fit` (shapes and exact poses, by drawing the images again),
`rendering_fit` (ink, blur, codec, by image statistics), `font_match` (which known font draws alike,
how large), `calibrate` (what the simulator shall draw). `rescoring` decides doubtful characters by
drawing them. No label is seen.
"""
