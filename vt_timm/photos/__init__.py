"""Photos in, classes and pictures of attention out."""
