"""A whole compression: stages in order, each in a folder of its own that says what was done."""
