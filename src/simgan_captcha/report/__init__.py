"""The HTML report of a run, section by section."""
