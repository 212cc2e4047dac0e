"""The command line: one file per command group, each parses, calls and prints."""
