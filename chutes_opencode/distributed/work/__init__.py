"""The worker's side: orders, what it does with them, and what it says of that."""
