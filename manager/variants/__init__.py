"""The variants of a model: which files are the same weights in another precision, and which to take."""
