"""Semantic segmentation with FPN and VT-FPN (section 5.3): data, training, inference."""
