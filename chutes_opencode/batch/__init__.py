"""Many prompts: durable, resumable, bounded in money."""
