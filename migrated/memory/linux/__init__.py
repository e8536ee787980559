"""Thin, typed calls of Linux that the standard library lacks; one module per topic."""
