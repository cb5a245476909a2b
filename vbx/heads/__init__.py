"""Stage 2: multitask heads trained from the cache."""
