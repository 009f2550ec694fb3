"""What the three policies of ENC have in common: quality curves, rank sets, the authors' files."""
