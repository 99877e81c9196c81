"""Networks for inference alone: the same answers in fewer operations."""
