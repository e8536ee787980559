"""Dirty trackers: which pages were written since the last time somebody asked."""
