"""Where weights come from: what ships, the Hub, a training run, and a ResNet to start from."""
