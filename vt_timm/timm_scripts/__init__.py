"""timm's own scripts: where they are, and running them with our models."""

SCRIPTS = ("train", "validate", "benchmark", "inference", "onnx_export")
