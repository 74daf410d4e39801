"""From raw files to patches."""
