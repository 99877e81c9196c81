"""From a training run to a folder for the Hub, checked, with its card: `vt-timm publish`."""
