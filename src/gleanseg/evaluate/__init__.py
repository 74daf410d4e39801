"""From label maps to tidy rows."""
