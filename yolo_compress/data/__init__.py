"""The data sets of a run, and the one reader of labelled images."""
