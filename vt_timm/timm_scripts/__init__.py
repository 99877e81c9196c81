"""timm's own scripts: where they are, and running them with our models."""
