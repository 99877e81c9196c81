"""Passes of this package's models as they were at an earlier commit, each version in a process of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import vt_timm

from ..common.measure import clock_of
from .passes import Setting, build

ROOT = Path(__file__).resolve().parents[2]


class UnknownCommitError(ValueError):
    """A commit that git does not have, or that has no package `vt_timm`."""


@contextlib.contextmanager
def passes_in_processes(name: str, commit: str, setting: Setting) -> Iterator[dict[str, "Pass"]]:
    """Yield a pass of the model with the package at `commit`, and one with the package as it lies here.

    Both are in processes that wait for each other: what a process costs is the same for both.

    Yields:
        The pass before under the name "NAME@COMMIT", the one now under NAME; calling one gives its seconds.

    Raises:
        UnknownCommitError: if git has no such commit, or it has no package `vt_timm`.
    """
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = f"{folder}/package.zip"
        command = ["git", "archive", f"--output={file}", commit, "vt_timm"]
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if archive.returncode:
            raise UnknownCommitError(f"--before {commit}: {archive.stderr.strip()}")
        shutil.unpack_archive(file, folder)
        before = stack.enter_context(Pass(name, setting, Path(folder)))
        yield {f"{name}@{commit}": before, name: stack.enter_context(Pass(name, setting, ROOT))}


class Pass:
    """A process that has built a model with the package of a folder and makes a pass whenever it is called."""

    def __init__(self, name: str, setting: Setting, package: Path) -> None:
        # PYTHONSAFEPATH: the current folder would come before that of the earlier package.
        environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, name, json.dumps(asdict(setting)), str(package)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process of a pass ended early; what it printed stands above")
        return float(answer)

    def __enter__(self) -> "Pass":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its input, at which it ends


def serve(name: str, setting: Setting, package: Path) -> None:
    """Make a pass per line of standard input and print the seconds that it took."""
    if not Path(vt_timm.__file__).is_relative_to(package):
        raise RuntimeError(f"vt_timm was imported from {vt_timm.__file__} instead of {package}")
    torch.set_num_threads(setting.threads)
    run, clock = build(name, setting), clock_of(setting.device)
    for _ in sys.stdin:
        print(clock(run), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Setting(**json.loads(sys.argv[2])), Path(sys.argv[3]))
