"""Measure what a pass of a VT-ResNet and of its ResNet needs at its peak, as torch allocates it.

    python -m benchmarks.throughput.memory --write NAME

Counted are the weights, in training gradients and SGD's momentum too, and the maps that are there at once. Unlike a
process's resident size, it is the same every time and whatever else the machine does; what libraries keep for
themselves is not in it. A training step keeps maps for its backward pass: those of `layer4` and of the VT stage in its
place are counted alone, since all others are the same in both.
"""

import argparse

import timm
import torch
from torch import Tensor, nn

import vt_timm  # noqa: F401  registers the models

from ..common.measure import allocated_peak_of
from .passes import PEERS, Setting, build, held_by
from .runner import Row, add_choices, run

TASKS = ("inference", "train")
VARIED = ("task", "model", "memory_format", "precision", "size", "batch_size")
MILLION_BYTES = 1e6


def needed_by(name: str, s: Setting) -> int:
    """Return the bytes of weights and momentum and of what one pass allocates beyond them at its peak."""
    one_pass = build(name, s)
    one_pass()  # SGD makes its momentum only in a first step
    if not s.device.startswith("cuda"):
        return held_by(name, s) + allocated_peak_of(one_pass)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one_pass()
    return held_by(name, s) + torch.cuda.max_memory_allocated() - before


def kept_by_stage(name: str, s: Setting) -> int:
    """Return the bytes that the last stage keeps for its backward pass, without weights and without its input."""
    model = timm.create_model(name).train().to(s.dtype).to(memory_format=s.layout)  # type: ignore[call-overload]
    stage = model.get_submodule("vt_stage" if name in PEERS else "layer4")
    given: list[Tensor] = []
    stage.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(s.batch_size, 3, s.size, s.size, dtype=s.dtype).to(memory_format=s.layout))
    return kept_by(stage, given[0])


def kept_by(module: nn.Module, feature_map: Tensor) -> int:
    """Return the bytes of every storage that autograd saves in one call, once each, but weights and the input."""
    feature_map = feature_map.clone().requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), feature_map)}
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        result = module(feature_map)
    del result
    return sum(storage.nbytes() for storage in saved.values())


def compare(name: str, s: Setting) -> Row:
    """Return the megabytes of both at their peak, and in training what their last stages keep."""
    model, peer = (needed_by(who, s) / MILLION_BYTES for who in (name, PEERS[name]))
    row: Row = {"peer": PEERS[name], "model_megabytes": round(model, 1), "peer_megabytes": round(peer, 1)}
    row["share"] = round(model / peer, 3)
    if s.task == "train":
        row["vt_stage_keeps_megabytes"] = round(kept_by_stage(name, s) / MILLION_BYTES, 1)
        row["layer4_keeps_megabytes"] = round(kept_by_stage(PEERS[name], s) / MILLION_BYTES, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.memory", description=__doc__.splitlines()[0])
    add_choices(parser, pairs=None)
    parser.set_defaults(batch_sizes=[16])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    run("memory", VARIED, lambda name, s, _: [compare(name, s)], parser, parser.parse_args())


if __name__ == "__main__":
    main()
