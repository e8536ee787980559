"""Pages into batches and back: codecs, the batch's layout, arenas, workers and their pool."""
