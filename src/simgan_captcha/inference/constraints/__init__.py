"""Constraints on texts: patterns, sets of texts as automata, and the best texts of a set."""
