"""Draw what a model saw."""
