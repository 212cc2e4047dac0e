"""The relay between opencode and the provider: bounded, honest, keyless."""
