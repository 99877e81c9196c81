"""What a pass of a VT-ResNet and of its ResNet needs at its peak, as torch allocates it:

    python -m benchmarks.throughput.memory --write NAME

Weights, in training gradients and SGD's momentum too, and the maps that are there at once. Unlike the resident size
that `python -m benchmarks.throughput --memory` gives, it is the same every time and whatever else the machine does;
what libraries keep for themselves is not in it. A training step keeps maps for its backward pass: those of `layer4` and
of the VT stage in its place are counted alone, since all others are the same in both.
"""

import argparse
import sys

import timm
import torch
from torch import Tensor, nn

import vt_timm  # noqa: F401  registers the models

from ..common.measure import allocated_peak_of
from ..common.records import RESULTS, facts, write_json
from .passes import FORMATS, PEERS, PRECISIONS, Setting, add_choices, build, combinations, held_by

TASKS = ("inference", "train")
MILLION_BYTES = 1e6


def needed_by(name: str, s: Setting) -> int:
    """Bytes of weights and momentum and of what one pass allocates beyond them at its peak."""
    run = build(name, s)
    run()  # SGD makes its momentum only in a first step
    return held_by(name, s) + allocated_peak_of(run)


def kept_by_stage(name: str, s: Setting) -> int:
    """Bytes that the last stage of a (VT-)ResNet keeps for its backward pass, without weights and without its input."""
    dtype, layout = PRECISIONS[s["precision"]], FORMATS[s["memory_format"]]
    model = timm.create_model(name).train().to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    stage = model.get_submodule("vt_stage" if name in PEERS else "layer4")
    given: list[Tensor] = []
    stage.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(s["batch_size"], 3, s["size"], s["size"], dtype=dtype).to(memory_format=layout))
    return kept_by(stage, given[0])


def kept_by(module: nn.Module, feature_map: Tensor) -> int:
    """Bytes of every storage that autograd saves in one call, once each, but weights and the input."""
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


def compare(name: str, s: Setting) -> Setting:
    model, peer = (needed_by(who, s) / MILLION_BYTES for who in (name, PEERS[name]))
    row = {
        "model": name,
        "peer": PEERS[name],
        **s,
        "model_megabytes": round(model, 1),
        "peer_megabytes": round(peer, 1),
    }
    row["share"] = round(model / peer, 3)
    if s["task"] == "train":
        row["vt_stage_keeps_megabytes"] = round(kept_by_stage(name, s) / MILLION_BYTES, 1)
        row["layer4_keeps_megabytes"] = round(kept_by_stage(PEERS[name], s) / MILLION_BYTES, 1)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.memory", description=__doc__.splitlines()[0])
    add_choices(parser, batch_sizes=[16])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    varied = ("task", "model", "memory_format", "precision", "size", "batch_size")
    for s in combinations(args, *varied, device="cpu", mode="eager"):
        row = compare(s.pop("model"), s)
        rows.append(row)
        print(
            f"{row['task']:<10}{row['model']:<13}{row['precision']:<10}{row['memory_format']:<14}{row['size']} px, "
            f"batch {row['batch_size']:>2}: {row['model_megabytes']:.1f} MB, {row['peer']} "
            f"{row['peer_megabytes']:.1f}, share {row['share']:.3f}",
            flush=True,
        )
    if args.write:
        write_json(RESULTS / "throughput" / f"{args.write}.json", {**facts(), "seed": 0, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
