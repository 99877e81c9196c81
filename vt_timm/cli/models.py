"""What models there are and where their weights are: `vt-timm models` and `vt-timm download`."""

import argparse
import difflib
import json
from pathlib import Path

import timm
import torch
from timm.models import PretrainedCfg
from torch.utils.flop_counter import FlopCounterMode

from ..errors import CommandError, first_line
from ..photos.look import load
from ..photos.models import load_model
from ..weights.download import CONFIG, WEIGHTS, DownloadError, fetch, is_cached

__all__ = ["download", "models"]


def models(args: argparse.Namespace) -> int:
    """A table of our models: name and tag, parameters, MACs, input, and where the weights come from."""
    rows = []
    for name in timm.list_models(module="vt_resnet"):
        for tagged in timm.list_models(name, include_tags=True, module="vt_resnet"):
            config: PretrainedCfg = timm.get_pretrained_cfg(tagged)  # type: ignore[assignment]
            model = timm.create_model(tagged, device="meta").eval()
            channels, height, width = config.input_size
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.empty(1, channels, height, width, device="meta"))
            rows.append(
                {
                    "model": tagged,
                    "classes": config.num_classes,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "macs": counter.get_total_flops() // 2,  # the counter counts two FLOPs a multiply-accumulate
                    "input": f"{height} x {width}",
                    "weights": _weights_source(config),
                }
            )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'model':<36}{'classes':>8}{'params (M)':>12}{'MACs (M)':>10}{'input':>12}  weights")
    for row in rows:
        print(
            f"{row['model']:<36}{row['classes']:>8}{row['parameters'] / 1e6:>12.2f}{row['macs'] / 1e6:>10.0f}"
            f"{row['input']:>12}  {row['weights']}"
        )
    return 0


def _weights_source(config: PretrainedCfg) -> str:
    if config.file:
        return "shipped" if Path(config.file).is_file() else f"missing: {config.file}"
    if not config.hf_hub_id:
        return "none"
    return f"{'cached' if is_cached(config.hf_hub_id) else 'remote'}: {config.hf_hub_id}"


def download(args: argparse.Namespace) -> int:
    """Bring models into the cache, so that they load without a network; each is loaded once to see that it does."""
    for name in args.names:
        source = _repository(name)
        if source is None:
            print(f"{name} ships with vt_timm: there is nothing to download")
            continue
        try:
            folder = fetch(source, CONFIG).parent
            fetch(source, WEIGHTS)
            config = json.loads((folder / CONFIG).read_text())
        except DownloadError as error:
            raise CommandError(str(error)) from error
        except ValueError as error:
            raise CommandError(f"{source}: its config.json is no JSON ({first_line(error)}); see its page") from error
        if "neck" in config:
            load(str(folder), "cpu")
            usage = f"vt-timm segment --model {source}"
        else:
            load_model(f"hf-hub:{source}")
            usage = f'timm.create_model("hf-hub:{source}", pretrained=True)'
        print(f"{name}: {folder}\n  {usage}")
    return 0


def _repository(name: str) -> str | None:
    """The Hub repository of a model name, a tag or hf-hub:ORG/NAME; None for weights that ship."""
    if "/" in name:
        return name.removeprefix("hf-hub:")
    for tagged in timm.list_pretrained():
        if name in (tagged, tagged.partition(".")[0]):
            config: PretrainedCfg = timm.get_pretrained_cfg(tagged)  # type: ignore[assignment]
            shipped = config.file and Path(config.file).is_file()
            return None if shipped else config.hf_hub_id
    known = [tagged.partition(".")[0] for tagged in timm.list_pretrained()]
    close = difflib.get_close_matches(name.partition(".")[0], dict.fromkeys(known), n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`vt-timm models` lists the models that have weights"
    raise CommandError(f"there are no weights called {name}; {hint}")
