"""The cache: vectors, labels and splits on disk. Knows nothing of audio or of training."""
