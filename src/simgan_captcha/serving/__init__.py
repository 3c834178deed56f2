"""How servers of this package listen and run."""
