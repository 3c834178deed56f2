"""Teaching of a finished run with a few labels. This package may use true texts of real images.

Its results are in a separate folder, ``RUN/teach``. The readings, figures and recognizers that the
run made without labels do not change.
"""
