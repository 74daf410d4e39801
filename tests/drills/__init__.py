"""Longer tests that are started by hand; `make test` runs a short form of each."""
