"""Ways to run a prompt. Each returns the same evidence; none judges it."""
