"""From a name of a model to its answers."""
