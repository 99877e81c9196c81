"""Small versions of the paper's accuracy tables on Imagenette: `python -m benchmarks.accuracy --help`."""
