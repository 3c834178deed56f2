"""Draw characters by glyphs and poses, and compare the drawings with real images.

poses       classes and poses of the characters in images
characters  the differentiable drawing
misfits     how well drawings explain the pixels around each character
linear      the drawing and its derivatives, as compiled loops
pose_fit    exact poses of characters with known glyphs
"""
