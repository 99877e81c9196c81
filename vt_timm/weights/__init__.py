"""Where weights come from: those that ship, the Hub, a ResNet's to start from."""
