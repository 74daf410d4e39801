"""The loop: the only caller of backward."""
