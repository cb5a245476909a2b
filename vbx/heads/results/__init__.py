"""Results on disk: the parts of a folder, the heads in them, and the processes that share it."""
