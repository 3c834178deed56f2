"""Fit the simulator to unlabelled images: glyphs, poses, rendering and clutter.

The modules, in the order of the flow:

    bootstrap      the bootstrap recognizer, which predicts classes and poses
    look           one calibration round, from predictions to glyphs, with class balancing
    glyph_fit      glyphs and exact poses, by gradient descent on the drawing error
    drawing        poses, drawings of them, and exact poses for known glyphs
    lost_shapes    recovery of glyphs that no font draws
    font_match     comparison of glyphs with known fonts
    rendering_fit  ink, blur, codec and clutter, from image statistics
    moments        these statistics
    calibrate      the result, which the simulator draws from
    summary        the result for people
    rescoring      uncertain readings, decided by drawing
    settings       the settings of calibration
"""
