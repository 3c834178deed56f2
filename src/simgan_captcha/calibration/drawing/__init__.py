"""Draw characters by glyphs and poses, and compare the drawings with real images.

poses       Classes and poses of the characters in images.
characters  The differentiable drawing.
misfits     How well drawings explain the pixels around each character.
linear      The drawing and its derivatives, as compiled loops.
pose_fit    Exact poses of characters with known glyphs.
"""
