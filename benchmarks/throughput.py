"""Speed and memory of VT-ResNets against the ResNets they replace, from pairs timed in turn in one process.

    python -m benchmarks.throughput                                               # inference, eager, float32: print
    python -m benchmarks.throughput --precisions float32 bfloat16 --write NAME    # recorded in results/throughput_NAME
    python -m benchmarks.throughput --modes eager compile onnx                    # also compiled, and in ONNX Runtime
    python -m benchmarks.throughput --task train --memory                         # forward, backward, SGD; peak memory
    python -m benchmarks.throughput --sizes 224 448 896 --batch-sizes 1           # how cost grows with resolution
    python -m benchmarks.throughput --device cuda --precisions bfloat16 --memory-format channels_last \\
        --batch-sizes 1 64 256 --modes eager compile

A pair is one pass of each; the ratio is the ResNet's time over the VT-ResNet's, so that above 1 the VT-ResNet is
faster. Printed: the median over pairs, the middle half of them, and the ratio of MACs, which one would hope for.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

import vt_timm  # noqa: F401  registers the models

from .counting import count
from .measure import in_turn, middle_half, peak_memory, peak_of, ratios
from .records import RESULTS, facts, write_json

PEERS = {"vt_resnet18": "resnet18", "vt_resnet34": "resnet34", "vt_resnet50": "resnet50", "vt_resnet101": "resnet101"}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("eager", "compile", "onnx")
SMALLEST_ROUNDS = 5

Setting = dict[str, Any]


def build(name: str, s: Setting) -> Callable[[], object]:
    """One pass of a model in a setting, as something to call."""
    torch.manual_seed(0)
    dtype, layout = PRECISIONS[s["precision"]], FORMATS[s["memory_format"]]
    model = timm.create_model(name).to(s["device"], dtype).to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(s["batch_size"], 3, s["size"], s["size"])
    images = images.to(s["device"], dtype, memory_format=layout)
    if s["task"] == "train":
        return _training_step(model, images, s)
    model.eval()
    if s["mode"] == "onnx":
        return _onnx_pass(model, images)
    call = torch.compile(model, fullgraph=True) if s["mode"] == "compile" else model

    def infer() -> None:
        with torch.inference_mode():
            call(images)
        _wait(s["device"])

    return infer


def _training_step(model: nn.Module, images: torch.Tensor, s: Setting) -> Callable[[], object]:
    labels = torch.randint(1000, (len(images),), device=images.device)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9)
    call = torch.compile(model, fullgraph=True) if s["mode"] == "compile" else model

    def step() -> None:
        F.cross_entropy(call(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait(s["device"])

    return step


def _onnx_pass(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    array = images.numpy()
    return lambda: session.run(None, {given.name: array})


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rounds_for(batch_size: int, size: int, pairs: int) -> int:
    """As many pairs as asked for at batch 1 and 224 px, fewer where each takes longer."""
    return max(SMALLEST_ROUNDS, round(pairs / (batch_size * (size / 224) ** 2) ** 0.5))


def compare(name: str, s: Setting, pairs: int) -> Setting:
    """The row of a VT-ResNet and its peer in one setting."""
    peer = PEERS[name]
    rounds = rounds_for(s["batch_size"], s["size"], pairs)
    seconds = in_turn({n: build(n, s) for n in (peer, name)}, rounds, warm_up=2)
    faster = ratios(seconds[peer], seconds[name])
    return {
        "model": name,
        "peer": peer,
        **s,
        "pairs": rounds,
        "ratio": round(statistics.median(faster), 3),
        "middle_half": middle_half(faster, 3),
        "macs_ratio": round(count(peer, s["size"])[0] / count(name, s["size"])[0], 3),
        "peer_images_per_second": round(s["batch_size"] / statistics.median(seconds[peer]), 1),
        "model_images_per_second": round(s["batch_size"] / statistics.median(seconds[name]), 1),
    }


def memory_of(name: str, s: Setting) -> int:
    """Peak resident bytes of one pass, in a process of its own; on a GPU, of its allocator."""
    run = build(name, s)
    build(name, {**s, "batch_size": 1, "size": 64})()  # libraries load what they need
    if s["device"].startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    return peak_of(run)


def add_memory(row: Setting, s: Setting, threads: int) -> None:
    plural = {"mode": "modes", "precision": "precisions", "size": "sizes", "batch_size": "batch-sizes"}
    names = {key: plural.get(key, key.replace("_", "-")) for key in s}
    flags = [text for key, value in s.items() for text in (f"--{names[key]}", str(value))]
    peer, model = (
        peak_memory("benchmarks.throughput", "--memory-of", n, "--threads", str(threads), *flags)
        for n in (row["peer"], row["model"])
    )
    row["peer_peak_megabytes"], row["model_peak_megabytes"] = (round(b / 2**20, 1) for b in (peer, model))


def settings(args: argparse.Namespace) -> list[Setting]:
    fixed = {"task": args.task, "device": args.device, "memory_format": args.memory_format}
    varied = itertools.product(args.modes, args.precisions, args.sizes, args.batch_sizes)
    return [
        {**fixed, "mode": mode, "precision": precision, "size": size, "batch_size": batch_size}
        for mode, precision, size, batch_size in varied
        if not (mode == "onnx" and precision != "float32")  # ONNX Runtime has no bfloat16 convolutions on a CPU
    ]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PEERS, default=["vt_resnet18", "vt_resnet50"])
    parser.add_argument("--task", choices=("inference", "train"), default="inference")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--memory-format", choices=FORMATS, default="contiguous")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224], help="of the square images, pixels")
    parser.add_argument("--pairs", type=int, default=25, help="at batch 1 and 224 px; fewer where a pass is longer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="also peak memory, in processes of their own")
    parser.add_argument("--write", metavar="NAME", help="record as benchmarks/results/throughput_NAME.json")
    parser.add_argument("--memory-of", metavar="MODEL", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    args = parser().parse_args()
    if args.task == "train" and "onnx" in args.modes:
        parser().error("ONNX Runtime does not train: leave onnx out of --modes")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(memory_of(args.memory_of, settings(args)[0]))
        return 0
    rows = []
    head = f"{'model':<14}{'mode':<9}{'precision':<10}{'px':>4}{'batch':>6}{'ratio':>7}  {'middle half':<14}{'MACs':>5}"
    print(f"{head}{'images/s, peer and model':>27}{'  peak MB, peer and model' if args.memory else ''}")
    for s in settings(args):
        for name in args.models:
            row = compare(name, s, args.pairs)
            if args.memory:
                add_memory(row, s, args.threads)
            rows.append(row)
            low, high = row["middle_half"]
            print(
                f"{name:<14}{s['mode']:<9}{s['precision']:<10}{s['size']:>4}{s['batch_size']:>6}{row['ratio']:>7.2f}  "
                f"{f'{low:.2f} to {high:.2f}':<14}{row['macs_ratio']:>5.2f}"
                f"{row['peer_images_per_second']:>15.1f}{row['model_images_per_second']:>12.1f}"
                + (f"{row['peer_peak_megabytes']:>13.1f}{row['model_peak_megabytes']:>12.1f}" if args.memory else ""),
                flush=True,
            )
    if args.write:
        write_json(RESULTS / f"throughput_{args.write}.json", {**facts(), "seed": 0, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
