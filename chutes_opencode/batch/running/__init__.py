"""Carrying a batch out: what runs when, and what becomes of a failure."""
