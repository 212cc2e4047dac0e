"""How a process of a Ray cluster becomes a place where prompts can run."""
