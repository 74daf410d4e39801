"""One file per layout on disk."""
