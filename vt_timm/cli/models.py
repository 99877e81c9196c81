"""The commands about models: what there is, where their weights are, and one as a file for other machines."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CommandError, did_you_mean
from ..run_files import BEST, CONFIG, SETTINGS, WEIGHTS
from .shared import command, not_negative, positive

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

    from ..segmentation.settings import Settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "models", "list the models, their cost and their weights", "vt-timm models --json")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=models)

    parser = command(
        commands, "download", "bring models from the Hub into the cache, for use without a network",
        "vt-timm download ORG/NAME",
    )  # fmt: skip
    parser.add_argument("names", nargs="+", metavar="NAME", help="a model that `vt-timm models` lists, or ORG/NAME")
    parser.set_defaults(run=download)

    parser = command(
        commands, "export", "write a model as one file: ONNX, torch.export or AOTInductor",
        "vt-timm export vt_resnet18 -o vt.onnx --int8 --calibrate photos/",
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="a name as for --model of the other commands")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".onnx, .pt2 (torch.export) or .aoti.pt2 (AOTInductor)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="compute in 8 bits; with --calibrate, for .onnx and .aoti.pt2"
    )
    parser.add_argument("--half", action="store_true", help="compute in 16 bits: float16, in .aoti.pt2 bfloat16")
    parser.add_argument("--calibrate", metavar="FOLDER", help="for --int8: photos such as the model will see")
    parser.add_argument(
        "--calibrate-images", type=positive, default=256, metavar="N", help="how many of them (default: 256)"
    )
    parser.add_argument(
        "--validate", metavar="FOLDER",
        help="score model and file on labelled photos: a folder with one folder per class, or a segmenter's data set",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="NAME",
        help="what a segmenter's masks mean: a recipe or a YAML file of settings (default: those of its run)",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=not_negative, metavar="SHARE",
        help="largest difference of the logits, as a share of their size, and largest share of a segmenter's pixels "
        "with another label (default: by precision)",
    )  # fmt: skip
    parser.set_defaults(run=export)


def models(args: argparse.Namespace) -> int:
    """Print a table of our models: name and tag, parameters, MACs, input, and where the weights come from."""
    import timm

    from ..cost import count_macs, count_parameters, in_millions

    rows: list[dict[str, Any]] = []
    for tagged in timm.list_models(include_tags=True, module="vt_resnet"):
        config: PretrainedCfg = timm.get_pretrained_cfg(tagged)  # type: ignore[assignment]
        model = timm.create_model(tagged, device="meta").eval()
        channels, height, width = config.input_size
        rows.append(
            {
                "model": tagged,
                "classes": config.num_classes,
                "parameters": count_parameters(model),
                "macs": count_macs(model, (channels, height, width)),
                "input": f"{height} x {width}",
                "weights": _weights_source(config),
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'model':<36}{'classes':>8}{'params (M)':>12}{'MACs (M)':>10}{'input':>12}  weights")
    for row in rows:
        macs, parameters = in_millions(row["macs"], row["parameters"])
        print(f"{row['model']:<36}{row['classes']:>8}{parameters:>12}{macs:>10}{row['input']:>12}  {row['weights']}")
    return 0


def _weights_source(config: "PretrainedCfg") -> str:
    from ..weights.download import is_cached

    if config.file:
        return "shipped" if Path(config.file).is_file() else f"missing: {config.file}"
    if not config.hf_hub_id:
        return "none"
    return f"{'cached' if is_cached(config.hf_hub_id) else 'remote'}: {config.hf_hub_id}"


def download(args: argparse.Namespace) -> int:
    """Bring models into the cache, so that they load without a network; each is loaded once to see that it does."""
    from ..pipelines.sources import load
    from ..weights.download import fetch

    for name in args.names:
        if not name.strip():
            raise CommandError("a model has no name: `vt-timm models` lists those that there are")
        if Path(name.removeprefix("local-dir:")).exists():
            print(f"{name} lies here already: there is nothing to download")
            continue
        source = _repository(name)
        if source is None:
            print(f"{name} ships with vt_timm: there is nothing to download")
            continue
        folder = fetch(source, CONFIG).parent
        fetch(source, WEIGHTS)
        load(source)  # to see that it works
        print(f'{name}: {folder}\n  vt_timm.load("{source}")')
    return 0


def _repository(name: str) -> str | None:
    """Return the Hub repository of a model name, a tag or hf-hub:ORG/NAME; None for weights that ship."""
    import timm

    from ..weights.published import published_segmenters

    if "/" in name:
        return name.removeprefix("hf-hub:")
    if name in published_segmenters():
        return None
    for tagged in timm.list_pretrained():
        if name in (tagged, tagged.partition(".")[0]):
            config: PretrainedCfg = timm.get_pretrained_cfg(tagged)  # type: ignore[assignment]
            shipped = config.file and Path(config.file).is_file()
            return None if shipped else config.hf_hub_id
    known = [*(tagged.partition(".")[0] for tagged in timm.list_pretrained()), *published_segmenters()]
    hint = did_you_mean(name.partition(".")[0], dict.fromkeys(known), 3)
    raise CommandError(
        f"there are no weights called {name}{hint or '; `vt-timm models` lists the models that have weights'}"
    )


def export(args: argparse.Namespace) -> int:
    """Write the file, and say how large it is and how near to the model."""
    from ..pipelines.sources import load

    settings = _settings(args)
    written = load(args.model).export(
        args.output, int8=args.int8, half=args.half, calibrate=args.calibrate, calibrate_images=args.calibrate_images,
        validate=args.validate, settings=settings, tolerance=args.tolerance,
    )  # fmt: skip
    if written.scores:
        print(written.scores)
    print(f"{args.output}: {written.size / 1e6:.1f} MB, {written.difference}")
    return 0


def _settings(args: argparse.Namespace) -> "Settings | None":
    """Return what a segmenter was trained with, as the user says or as its run does."""
    if not args.validate:
        if args.config:
            raise CommandError("--config belongs to --validate")
        return None
    from ..recipes import SEGMENTATION, find_recipe
    from ..segmentation.settings import Settings

    run = Path(args.model.removeprefix("local-dir:"))
    run = run.parent if run.name == BEST else run
    changes = {"data_dir": args.validate}  # a recipe names none
    if args.config:
        return Settings.from_yaml(find_recipe(args.config, SEGMENTATION), changes)
    return Settings.from_yaml(run / SETTINGS, changes) if (run / SETTINGS).is_file() else None
