"""What each part of a trained classifier does: its parts taken out at inference, and what its tokens look like.

    python -m benchmarks.tokens vt_resnet18 --data DATA/imagenette2-224/val --photos 600 --write

The model is anything that the commands take: a shipped name, `local-dir:FOLDER`, a training run or its checkpoint. The
photos are evenly spaced over the folder, and seen as the model's config says (its test size, or `--size`). A network
of ImageNet's classes is asked for those that have a folder.

An ablation replaces one tensor of one module by a forward hook; nothing is trained again. Its difference in top-1 is
paired over the photos with the whole network's, and so is the standard error: below twice that, nothing was seen.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from vt_timm.distillation import teacher_classes
from vt_timm.errors import UserError
from vt_timm.files import without_folders
from vt_timm.pipelines.sources import load_network
from vt_timm.tokenizers import GridAttention, SpatialAttention
from vt_timm.transformer import TokenTransformer
from vt_timm.vt_resnet import VTResNet

from .common.records import RESULTS, keep_record, read_records, table

FILE = "tokens/tokens.json"
ALIKE = 0.9  # two maps that correlate above this over the pixels look at the same place
BATCH = 50
SEED = 0
Hook = Callable[[], RemovableHandle]


@dataclass
class Stage:
    """A classifier, and what its VT modules were given for some photos, so that they run again without the trunk."""

    model: VTResNet
    labels: Tensor  # (N,), or (N, k) where an image shows k things
    inputs: list[tuple[Tensor, Tensor | None]]  # per module, the map (N, C, H, W) and the tokens of the module before
    tokens: Tensor  # (N, L, D), of the last module
    seen: list[dict[str, Any]]  # a row per module, from `describe`

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.vt_stage.blocks  # type: ignore[union-attr]

    def batches(self, module: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield what a module was given, batch by batch."""
        feature_NCHW, previous_NLD = self.inputs[module]
        for at in range(0, len(self.labels), BATCH):
            batch = slice(at, at + BATCH)
            yield feature_NCHW[batch], None if previous_NLD is None else previous_NLD[batch]

    def logits(self, module: int) -> Tensor:
        """Return what the network answers, (N, K), run from a module on."""
        logits = []
        for feature, tokens in self.batches(module):
            for block in self.blocks[module:]:
                feature, tokens = block(feature, tokens)
            logits.append(self.model.forward_head(tokens))
        return torch.cat(logits)

    def logits_of_one_token(self) -> list[Tensor]:
        """Return per token what the head answers when it reads that token alone, (N, K)."""
        return [self.model.forward_head(token_ND[:, None]) for token_ND in self.tokens.unbind(dim=1)]


@torch.no_grad()
def look(model: VTResNet, batches: Iterator[tuple[Tensor, Tensor]] | DataLoader) -> Stage:
    """Run a classifier on photos, and keep what its VT modules were given and what they look like."""
    blocks: nn.ModuleList = model.vt_stage.blocks  # type: ignore[union-attr]
    inputs: list[list[tuple[Tensor, Tensor | None]]] = [[] for _ in blocks]
    tokens, labels = [], []
    seen: list[dict[str, list[Tensor]]] = [defaultdict(list) for _ in blocks]
    for images, targets in tqdm(batches, desc="photos", disable=None):
        with ExitStack() as hooks:
            parts = [_record(block, hooks) for block in blocks]
            model(images)
        for i, part in enumerate(parts):
            inputs[i].append(part["input"])
            for name, value in describe(part).items():
                seen[i][name].append(value)
        tokens.append(parts[-1]["transformer"])
        labels.append(targets)
    given = [
        (torch.cat([feature for feature, _ in one]), None if one[0][1] is None else torch.cat([t for _, t in one]))  # type: ignore[misc]
        for one in inputs
    ]
    described = [summarise({key: torch.cat(values) for key, values in one.items()}) for one in seen]
    rows = [{"module": i, **row} for i, row in enumerate(described, start=1)]
    return Stage(model, torch.cat(labels), given, torch.cat(tokens), rows)


def _record(block: Any, hooks: ExitStack) -> dict[str, Any]:
    """Hook a VT module, so that after the next forward pass the dictionary holds what its parts gave."""
    found: dict[str, Any] = {}

    def keep(name: str, module: nn.Module, of_input: bool = False) -> None:
        def hook(_module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            found[name] = args if of_input else out

        hooks.enter_context(module.register_forward_hook(hook))

    keep("input", block, of_input=True)
    keep("maps", _maps(block.tokenizer))
    keep("tokenizer", block.tokenizer)
    if isinstance(block.transformer, TokenTransformer):
        keep("token_attention", block.transformer.attention)
        keep("eq. 3", block.transformer.f1, of_input=True)
    keep("transformer", block.transformer)
    if block.projector is not None:
        keep("reading", block.projector.attention)
        keep("output", block.projector)
    return found


def _maps(tokenizer: nn.Module) -> nn.Module:
    return next(m for m in tokenizer.modules() if isinstance(m, (SpatialAttention, GridAttention)))


def describe(part: dict[str, Any]) -> dict[str, Tensor]:
    """Return what one module's maps, tokens and update look like, each with one value per photo (B, ...).

    Args:
        part: "input", the map (B, C, H, W) and the tokens before; "maps" (B, L, H, W); "tokenizer" and "transformer",
            tokens (B, L, D); of a transformer "token_attention" (h B, L, L) and "eq. 3", the arguments of F1; of a
            projector "reading", the softmax (B h, L, P), and "output", the map that it gives.
    """
    maps, feature = part["maps"], part["input"][0]
    B = len(maps)
    found = {
        "map_entropy": entropy(maps.flatten(2), dim=2).mean(dim=1),
        "map_pairs_alike": alike(maps),
        "border": on_border(maps),  # (B, L)
        "border_chance": _border(*maps.shape[2:]).float().mean().expand(B),
        "cosine_tokenizer": cosine(part["tokenizer"]),
        "spread_tokenizer": spread(part["tokenizer"]),
    }
    if "eq. 3" in part:
        weights_hBLL = part["token_attention"].unflatten(0, (-1, B))
        found["cosine_eq3"] = cosine(part["eq. 3"][0])
        found["token_entropy"] = entropy(weights_hBLL, dim=3).mean(dim=(0, 2))
        found["token_on_itself"] = weights_hBLL.diagonal(dim1=2, dim2=3).mean(dim=(0, 2))
    found["cosine_transformer"] = cosine(part["transformer"])
    found["spread_transformer"] = spread(part["transformer"])
    if "output" in part:
        update = part["output"] - feature
        same = update.mean(dim=(2, 3), keepdim=True).expand_as(update)
        found["update_norm"] = (_square(update) / _square(feature)).sqrt()
        found["update_equal"] = _square(same) / _square(update)
        found["reading_entropy"] = entropy(part["reading"].unflatten(0, (B, -1)), dim=2).mean(dim=(1, 2))
    return found


def summarise(found: dict[str, Tensor]) -> dict[str, Any]:
    """Return the means over photos; of the border, the token whose map peaks there most often."""
    border_L = found.pop("border").float().mean(dim=0)
    means = {key: round(value.mean().item(), 4) for key, value in found.items()}
    row = {key: None if math.isnan(value) else value for key, value in means.items()}
    return {**row, "border_worst": round(border_L.max().item(), 4), "border_token": int(border_L.argmax())}


def entropy(weights: Tensor, dim: int) -> Tensor:
    """Return the entropy along a dimension, as a share of that of flat weights."""
    return torch.special.entr(weights).sum(dim) / math.log(weights.shape[dim])


def alike(maps_BLHW: Tensor) -> Tensor:
    """Return the share (B,) of the L (L - 1) / 2 pairs of tokens whose maps correlate above `ALIKE` over the pixels."""
    maps_BLP = maps_BLHW.flatten(2)
    unit_BLP = nn.functional.normalize(maps_BLP - maps_BLP.mean(dim=2, keepdim=True), dim=2)
    return _pairs(unit_BLP @ unit_BLP.transpose(1, 2)).gt(ALIKE).float().mean(dim=1)


def cosine(tokens_BLD: Tensor) -> Tensor:
    """Return the mean cosine (B,) between two different tokens of a photo."""
    unit_BLD = nn.functional.normalize(tokens_BLD, dim=2)
    return _pairs(unit_BLD @ unit_BLD.transpose(1, 2)).mean(dim=1)


def _pairs(matrix_BLL: Tensor) -> Tensor:
    L = matrix_BLL.shape[1]
    first, second = torch.triu_indices(L, L, offset=1)
    return matrix_BLL[:, first, second]


def spread(tokens_BLD: Tensor) -> Tensor:
    """Return the share (B,) of tokens' squared norm that their mean lacks: 0 where a photo's tokens are all equal."""
    return _square(tokens_BLD - tokens_BLD.mean(dim=1, keepdim=True)) / _square(tokens_BLD)


def _square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(dim=1)


def _border(height: int, width: int) -> Tensor:
    border_HW = torch.ones(height, width, dtype=torch.bool)
    border_HW[1:-1, 1:-1] = False
    return border_HW


def on_border(maps_BLHW: Tensor) -> Tensor:
    """Return (B, L), True where a token's map has its peak in the outermost rows and columns."""
    return _border(*maps_BLHW.shape[2:]).flatten()[maps_BLHW.flatten(2).argmax(dim=2)]


def ablations(stage: Stage, module: int) -> Iterator[tuple[str, str, Hook]]:
    """Yield part, what is done to it, and the hook that does it, for everything that one module can lose."""
    block: Any = stage.blocks[module]
    tokenizer, transformer, projector = block.tokenizer, block.transformer, block.projector
    maps = _maps(tokenizer)
    feature_NCHW, previous_NLD = stage.inputs[module]
    yield "tokenizer", "tokens := their mean", _after(tokenizer, lambda _, out: average(out, 1))
    mean_LD = _mean_tokens(stage, module)
    yield "tokenizer", "tokens := the data set's mean", _after(tokenizer, lambda _, out: mean_LD.expand_as(out))
    yield "tokenizer", "maps := their mean", _after(maps, lambda _, out: average(out, 1))
    yield "tokenizer", "maps flat", _after(maps, lambda _, out: average(out, (2, 3)))
    yield "tokenizer", "maps shuffled over the pixels", _after(maps, _shuffled(torch.Generator().manual_seed(SEED)))
    if previous_NLD is not None and _reads(tokenizer, feature_NCHW[:2], previous_NLD[:2]):
        mean = previous_NLD.mean(dim=0)
        yield "tokenizer", "fed another photo's tokens", _fed(tokenizer, lambda tokens: tokens.roll(1, 0))
        yield "tokenizer", "fed the mean token", _fed(tokenizer, lambda tokens: average(tokens, 1))
        yield "tokenizer", "fed the data set's mean tokens", _fed(tokenizer, lambda tokens: mean.expand_as(tokens))
    if not isinstance(transformer, nn.Identity):
        yield "transformer", "removed", _after(transformer, lambda args, _: args[0])
    if isinstance(transformer, TokenTransformer):
        attention, f2 = transformer.attention, transformer.f2
        yield "transformer", "eq. 3 removed", _after(attention, lambda _, out: torch.zeros_like(out))
        yield "transformer", "eq. 4 removed (F2 = 0)", _after(f2, lambda _, out: torch.zeros_like(out))
        yield "transformer", "even attention", _after(attention, lambda _, out: average(out, 2))
    if projector is not None:
        mean_update = _after(projector, lambda args, out: args[0] + average(out - args[0], (2, 3)))
        yield "projector", "update := its mean over the pixels", mean_update
        yield "projector", "attention flat", _after(projector.attention, lambda _, out: average(out, 1))
        yield "projector", "no update", _after(projector, lambda args, _: args[0])


def _after(module: nn.Module, replace: Callable[[tuple[Any, ...], Tensor], Tensor]) -> Hook:
    return lambda: module.register_forward_hook(lambda _module, args, out: replace(args, out))


def _fed(tokenizer: nn.Module, feed: Callable[[Tensor], Tensor]) -> Hook:
    """Call a tokenizer with the map and other tokens than those of the module before."""
    return lambda: tokenizer.register_forward_pre_hook(lambda _module, args: (args[0], feed(args[1])))


def average(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    return x.mean(dim=dim, keepdim=True).expand_as(x)


def _shuffled(generator: torch.Generator) -> Callable[[Any, Tensor], Tensor]:
    """Return a function that puts every map of every photo in an order of its own."""

    def shuffle(_: Any, maps_BLHW: Tensor) -> Tensor:
        maps_BLP = maps_BLHW.flatten(2)
        order = torch.rand(maps_BLP.shape, generator=generator).argsort(dim=2)
        return maps_BLP.gather(2, order).view_as(maps_BLHW)

    return shuffle


def _mean_tokens(stage: Stage, module: int) -> Tensor:
    """Return what a module's tokenizer gives on the mean over the photos, (L, D)."""
    tokenizer: Any = stage.blocks[module].tokenizer
    return sum(tokenizer(*given).sum(dim=0) for given in stage.batches(module)) / len(stage.labels)


def _reads(tokenizer: nn.Module, feature_BCHW: Tensor, previous_BLD: Tensor) -> bool:
    """True if a tokenizer gives other tokens when it is told others."""
    return not torch.equal(tokenizer(feature_BCHW, previous_BLD), tokenizer(feature_BCHW, previous_BLD.roll(1, 1) + 1))


def share_found(logits_NK: Tensor, labels: Tensor) -> Tensor:
    """Return the share (N,) of an image's classes among as many of the most probable: 1 or 0 where it has one label.

    Args:
        logits_NK: what the network answers.
        labels: (N,), or (N, k) where an image shows k things, some perhaps of the same class.
    """
    of_image_NK = torch.zeros_like(logits_NK, dtype=torch.bool).scatter(1, labels.view(len(labels), -1), True)
    number_N1 = of_image_NK.sum(dim=1, keepdim=True)
    rank_NK = logits_NK.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ((rank_NK < number_N1) & of_image_NK).sum(dim=1) / number_N1[:, 0]


def paired(right_N: Tensor, whole_N: Tensor) -> dict[str, float]:
    """Return the difference in top-1 over the same photos, and its standard error, in points."""
    difference = 100 * (right_N.double() - whole_N.double())
    error = difference.std().item() / math.sqrt(len(difference))
    return {"difference": round(difference.mean().item(), 2), "standard_error": round(error, 2)}


@torch.inference_mode()
def ablate(stage: Stage) -> list[dict[str, Any]]:
    """Score without each part, the whole network first: top-1, difference to it and its standard error, in points."""
    whole = share_found(stage.logits(0), stage.labels)
    rows = [{"module": None, "part": None, "what": "nothing", "top1": _percent(whole)}]

    def add(module: int | None, part: str, what: str, logits: Tensor) -> None:
        right = share_found(logits, stage.labels)
        rows.append({"module": module, "part": part, "what": what, "top1": _percent(right), **paired(right, whole)})

    for module in range(len(stage.blocks)):
        for part, what, hook in tqdm(list(ablations(stage, module)), desc=f"module {module + 1}", disable=None):
            with hook():
                add(module + 1, part, what, stage.logits(module))
    by_token = sorted(stage.logits_of_one_token(), key=lambda logits: -share_found(logits, stage.labels).sum().item())
    if len(by_token) > 1 and stage.model.global_pool:
        for what, index in (("best", 0), ("median", len(by_token) // 2), ("worst", -1)):
            add(None, "head", f"reads one token, the {what} of {len(by_token)}", by_token[index])
    return rows


def _percent(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 2)


def measure(name: str, folder: str, photos: int, size: int | None = None) -> dict[str, Any]:
    """Measure both tables of a trained classifier.

    Raises:
        UserError: for a model without VT modules, or a folder with other classes than the model's.
    """
    model = load_network(name, "classifier")
    if getattr(model, "vt_stage", None) is None:
        raise UserError(f"{name} has no VT modules: name a VT-ResNet")
    config = resolve_data_config({}, model=model, use_test_size=True)
    if size:
        config["input_size"] = (config["input_size"][0], size, size)
    dataset = create_dataset("", root=folder, transform=create_transform(**config))
    if len(dataset.reader.class_to_idx) != model.num_classes:
        keep_classes(model, list(dataset.reader.class_to_idx), name)
    photos = min(photos, len(dataset))
    order = torch.randperm(photos, generator=torch.Generator().manual_seed(SEED))  # another photo: of any class
    chosen = [int(i) * len(dataset) // photos for i in order]
    stage = look(model.eval(), DataLoader(Subset(dataset, chosen), batch_size=BATCH))
    return {
        "model": without_folders(name),
        "data": Path(folder).parent.name,
        "photos": photos,
        "image_size": config["input_size"][-1],
        "crop_pct": config["crop_pct"],
        "seen": stage.seen,
        "ablations": ablate(stage),
    }


def keep_classes(model: nn.Module, names: list[str], called: str) -> None:
    """Cut a classifier down to those of its classes that have these names, in this order.

    Raises:
        UserError: for a name that none of its classes has.
    """
    try:
        classes = teacher_classes(model, names)
    except ValueError as error:
        raise UserError(
            f"{called} has {model.num_classes} classes, and not those of the {len(names)} folders"
        ) from error
    classifier: nn.Linear = model.get_classifier()  # type: ignore[operator]
    classifier.weight = nn.Parameter(classifier.weight[classes].detach())
    classifier.bias = nn.Parameter(classifier.bias[classes].detach())
    model.num_classes = len(classes)  # type: ignore[assignment]


SEEN = {
    "map_entropy": "entropy of the maps, of flat ones",
    "map_pairs_alike": f"pairs of maps that correlate above {ALIKE}",
    "cosine_tokenizer": "cosine of two tokens: after the tokenizer",
    "cosine_eq3": "... after eq. 3",
    "cosine_transformer": "... after eq. 4",
    "spread_tokenizer": "share of the tokens' squared norm that differs within a photo: after the tokenizer",
    "spread_transformer": "... after the transformer",
    "token_entropy": "token attention: entropy, of flat",
    "token_on_itself": "... weight on itself",
    "update_norm": "projector: norm of the update, of the map's",
    "update_equal": "... share of its square that is equal at every pixel",
    "reading_entropy": "... entropy over the tokens, of flat",
    "border_worst": "photos in which the map of one token peaks at the border, the worst token",
    "border_chance": "... by chance",
}


def ablation_table(records: list[dict[str, Any]]) -> str:
    """Tabulate ablations, a column per model: top-1, and in brackets the paired difference and its standard error."""
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for record in records:
        for row in record["ablations"]:
            where = f"{row['part']} {row['module'] or ''}".strip() if row["part"] else ""
            top1 = f"{row['top1']:.2f}"
            if row["part"]:
                top1 += f" ({row['difference']:+.2f} +- {row['standard_error']:.2f})"
            cells[where, row["what"]][record["model"]] = top1
    head = ["part", "ablated at inference", *(_column(record) for record in records)]
    return table(head, [[*key, *(of.get(r["model"]) for r in records)] for key, of in cells.items()])


def seen_table(records: list[dict[str, Any]]) -> str:
    """Tabulate figures, a column per module of each model."""
    head = ["seen"] + [f"{_column(record)}, module {row['module']}" for record in records for row in record["seen"]]
    columns = [row for record in records for row in record["seen"]]
    lines = [[words, *(_cell(key, row.get(key)) for row in columns)] for key, words in SEEN.items()]
    return table(head, [line for line in lines if any(line[1:])])


def _cell(key: str, value: float | None) -> str | None:
    if value is None:
        return None
    return f"{100 * value:.1f} %" if key.startswith(("map_pairs", "update_", "border")) else f"{value:.3f}"


def _column(record: dict[str, Any]) -> str:
    return f"{record['model']}, {record['image_size']} px"


def recorded(ships: bool) -> list[dict[str, Any]]:
    """Return the records of the models that ship, or those of other runs."""
    return [record for name, record in read_records(FILE).items() if timm.is_model(name) == ships]


TABLES = {
    "token_ablations": lambda: ablation_table(recorded(ships=True)),
    "tokens_seen": lambda: seen_table(recorded(ships=True)),
    "token_ablations_of_runs": lambda: ablation_table(recorded(ships=False)),
    "tokens_seen_of_runs": lambda: seen_table(recorded(ships=False)),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a trained VT-ResNet: a name with weights, local-dir:FOLDER, a training run")
    parser.add_argument("--data", required=True, help="validation images, one folder per class")
    parser.add_argument("--photos", type=int, default=600, help="how many, evenly spaced (default: 600)")
    parser.add_argument("--size", type=int, help="side in pixels (default: the test size of the model's config)")
    parser.add_argument("--write", action="store_true", help=f"record in {RESULTS.name}/{FILE}")
    args = parser.parse_args()
    if not Path(args.data).is_dir():
        parser.error(f"{args.data}: no such folder")
    try:
        found = measure(args.model, args.data, args.photos, args.size)
    except UserError as error:
        parser.error(str(error))
    print(f"{found['photos']} photos\n\n{ablation_table([found])}\n\n{seen_table([found])}")
    if args.write:
        keep_record(FILE, found["model"], found)


if __name__ == "__main__":
    main()
