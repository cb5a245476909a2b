"""Stage 1: from audio and labels to vectors in the cache."""
