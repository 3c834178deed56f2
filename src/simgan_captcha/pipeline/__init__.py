"""A run: its stages, its folder, its configuration's cost, its progress."""
