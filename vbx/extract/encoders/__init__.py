"""Encoder plugins: the file name is the name."""
