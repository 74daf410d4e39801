"""Heads: one file each; the file's name is the head's name in the recipe's ``[head]`` table."""
