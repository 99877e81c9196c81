"""What is said beside timm's own output: once, by the first process, on stderr."""

import os
import sys

__all__ = ["RANK", "WORLD_SIZE", "say"]

RANK = int(os.environ.get("RANK", "0"))  # both set by torchrun
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str) -> None:
    if RANK == 0:
        print(f"vt-timm: {text}", file=sys.stderr)
