"""The opencode CLI itself: its binary, config, workspace, and what it writes."""
