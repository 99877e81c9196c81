"""The way from a training run to a checked folder for the Hub: `vt-timm publish`."""
