"""The folder of a run: what is durable, and what repairs it."""
