"""Records, pixels and the file format. No Ray here."""
