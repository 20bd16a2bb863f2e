"""HTML pages that need no other file: of a run, a comparison, the demo."""
