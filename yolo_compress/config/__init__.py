"""The recipe: its sections, and how it is read."""
