"""Shared by the tests: small networks, made-up batches, probe methods."""
