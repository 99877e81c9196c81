"""Speed and memory of VT-ResNets against the ResNets they replace: `python -m benchmarks.throughput --help`."""
