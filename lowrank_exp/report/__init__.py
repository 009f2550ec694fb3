"""Results and published values in; tables (text, Markdown, CSV, LaTeX) and figures out. Imports no torch."""
