"""Sampling: settings chosen by a search, in place of all points of a grid."""
