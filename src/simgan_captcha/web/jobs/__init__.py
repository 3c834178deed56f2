"""Commands that the pages start in child processes: learn, teach and export."""
