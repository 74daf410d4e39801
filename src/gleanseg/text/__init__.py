"""Text knowledge about regions of interest."""
