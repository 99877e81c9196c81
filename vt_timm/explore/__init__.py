"""The page of `vt-timm explore`."""
