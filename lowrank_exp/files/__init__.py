"""Files: there whole or not at all, with digests; results and confusion counts among them. No torch here."""
