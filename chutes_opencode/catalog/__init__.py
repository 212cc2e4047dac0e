"""Which providers and models exist: pure parsing, one GET, and the look-up."""
