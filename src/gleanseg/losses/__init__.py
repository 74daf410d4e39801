"""Loss families: pure functions of logits."""
