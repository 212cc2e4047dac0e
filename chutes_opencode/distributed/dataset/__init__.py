"""Prompts as rows of a Ray Data set."""
