"""Longer tests that are started by hand: broken files, killed commands, long runs; `make test` runs a short form."""
