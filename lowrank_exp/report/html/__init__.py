"""One page that shows results without a network: its data, its parts, and what puts them together. No torch here."""
