"""Corpus readers: the file name is the name."""
