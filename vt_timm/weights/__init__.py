"""Sources of weights: what ships, the Hub, a training run, and a ResNet to start from."""
