"""What a batch will cost, before it costs anything."""
