"""The driver's side: which worker gets what, and who is replaced."""
