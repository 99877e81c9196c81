"""Which stage 5 learns most from the same maps: short trials of readings of the VT stage beside its controls.

    python -m benchmarks.token_trials --data DATA/imagenette2-224 --cache CACHE --trunk local-dir:FOLDER --write

The trunk (`--trunk`), a trained network of timm's whose maps begin at stride 2, stays as it is. Its maps at stride 16
are computed once, of a random crop of every training photo at 128 px (`--size`); several may be laid side by side
(`--grid`). On them each stage 5 is trained from the start, for two questions at once: the label, and the answers of
an ImageNet teacher over its thousand classes. Ten labels a network answers that only pools; a thousand answers ask
for more. What counts is the validation photos: top-1, how often the student names the teacher's class, and the
divergence of its answers from the teacher's.

Short trials from a trunk that does not move show what is not worth a training; they do not show what a training gives.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import create_dataset
from timm.models.resnet import BasicBlock, downsample_conv
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from vt_timm.files import without_folders
from vt_timm.token_overlap import token_overlap
from vt_timm.tokenizers import LOGIT_SCALE, SpatialAttention
from vt_timm.vt_resnet import VTResNet

from .common.records import keep_record, read_records, table
from .tokens import ablate, average, look, share_found

FILE = "tokens/token_trials.json"
HEAD = ["stage 5", "top-1", "names the teacher's class", "divergence"]
SIZE, CHANNELS, CLASSES, ANSWERS = 128, 256, 10, 1000
SCALE = (0.25, 1.0)
FIRST_TRUNK = "vt_resnet18.mixup_imagenette"
OTHER_TRUNK, OTHER_SIZE = "tf_efficientnet_lite0", 224
BATCH, RATE, BETTER_RATE, WEIGHT_DECAY, CLIP, WARMUP = 128, 1e-3, 3e-3, 0.05, 5.0, 50
NUM_TOKENS, FEW = 16, 4
TOKEN_DIM = 512  # so that a trial takes minutes
LOOKED_AT = 600  # validation photos on which parts are taken out


class Normalised(SpatialAttention):
    """`softmax_HW(bn(logits))`: a batch norm sets the deviation of each token's logits, 2 at the start."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_tokens)
        nn.init.constant_(self.bn.weight, LOGIT_SCALE)

    def forward(self, logits_BLHW: Tensor) -> Tensor:
        return super().forward(self.bn(logits_BLHW))


class UnitPixels(SpatialAttention):
    """`softmax_HW(mean |X| logits / |X|)`: pixels ask with their direction alone, as if all were of the mean length.

    At the border of a map some are several times as long as elsewhere, and would win any softmax.
    """

    def __init__(self, tokenizer: nn.Module) -> None:
        super().__init__()
        tokenizer.register_forward_pre_hook(self.measure)

    def measure(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        length_B1HW = args[0].norm(dim=1, keepdim=True)
        self.share_B1HW = average(length_B1HW, (2, 3)) / length_B1HW.clamp(min=1e-6)

    def forward(self, logits_BLHW: Tensor) -> Tensor:
        return super().forward(logits_BLHW * self.share_B1HW)


class OwnFilters(nn.Module):
    """`W_R = T_in W_T->R + W_A`: the filters that the tokens before ask for (eq. 2), and some of the module's own."""

    def __init__(self, recurrent: nn.Linear, num_tokens: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.own = nn.Parameter(torch.randn(num_tokens, recurrent.out_features))

    def forward(self, previous_BLD: Tensor) -> Tensor:
        return self.recurrent(previous_BLD) + self.own


@dataclass(frozen=True)
class Trial:
    """A stage 5 and how it is trained.

    Args:
        what: what it is, for the table.
        build: makes the network from the number of channels of the trunk's maps, which it takes.
        overlap: weight of `token_overlap` in the loss.
        cut: how many rows and columns of a map are left out in training, on sides that differ from update to update.
        muon: "all" to train by timm's Muon, which takes a head's matrices as the rows of one, or "no heads" to leave
            weights of several heads to its AdamW.
    """

    what: str
    build: Callable[..., nn.Module]
    overlap: float = 0.0
    cut: int = 0
    muon: str = ""


def vt(*changes: Callable[[Any], None], **options: Any) -> Callable[..., nn.Module]:
    """Return a builder of a VT-ResNet that begins at stage 5, with changes made to its stage."""

    def build(channels: int = CHANNELS) -> VTResNet:
        model = VTResNet(channels=(64, 128, channels), **{"token_dim": TOKEN_DIM, "num_classes": CLASSES, **options})
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            setattr(model, name, nn.Identity())
        model.min_size = 0
        for change in changes:
            change(model.vt_stage)
        return model

    return build


def resnet(channels: int = CHANNELS) -> nn.Module:
    """Build stage 5 of a ResNet-18, and its head."""
    blocks = BasicBlock(channels, 512, 2, downsample_conv(channels, 512, 1, 2)), BasicBlock(512, 512)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))
    return nn.ModuleDict({"blocks": nn.Sequential(*blocks), "head": head})


def compete(stage: Any) -> None:
    for block in stage.blocks:
        block.tokenizer.attention = SpatialAttention(competition=True)


def normalise_logits(stage: Any) -> None:
    for block in stage.blocks:
        block.tokenizer.attention = Normalised(NUM_TOKENS)


def ask_by_direction(stage: Any) -> None:
    for block in stage.blocks:
        block.tokenizer.attention = UnitPixels(block.tokenizer)


def own_filters(stage: Any) -> None:
    tokenizer = stage.blocks[1].tokenizer
    tokenizer.to_filters = OwnFilters(tokenizer.to_filters, NUM_TOKENS)


def raise_gain(stage: Any) -> None:
    """Start with half an update."""
    nn.init.constant_(stage.blocks[0].projector.bn.weight, 0.5)


def sharpen_queries(stage: Any) -> None:
    """Start with logits that differ more among the tokens: by 0.6, not 0.16, on these maps."""
    stage.blocks[0].projector.query.data *= 4


def wake_projector(stage: Any) -> None:
    raise_gain(stage)
    sharpen_queries(stage)


def centre_update(stage: Any) -> None:
    """Take the mean token out of the projector's values, so that it cannot add one vector to every pixel."""
    stage.blocks[0].projector.bn.register_forward_pre_hook(lambda _m, args: args[0] - average(args[0], 2))


def centre_relation(stage: Any) -> None:
    """Take even attention out of eq. 3, so that it cannot add the mean token to every token."""
    for block in stage.blocks:
        block.transformer.attention.register_forward_hook(lambda _m, _args, out: out - 1 / out.shape[-1])


def drop_tokens(stage: Any) -> None:
    """Keep half of the tokens, others in each update of training."""

    def drop(module: nn.Module, _args: Any, tokens_BLD: Tensor) -> Tensor:
        return tokens_BLD[:, torch.randperm(NUM_TOKENS)[: NUM_TOKENS // 2]] if module.training else tokens_BLD

    stage.blocks[0].tokenizer.register_forward_hook(drop)


def leave_lift_linear(stage: Any) -> None:
    stage.lift.act = nn.Identity()


def mix_neighbours(stage: Any) -> None:
    """Put a depthwise 3x3 convolution, which starts as the identity, in front of each module. The paper has none."""
    for block in stage.blocks:
        C = block.tokenizer.embed.in_features if hasattr(block.tokenizer.embed, "in_features") else TOKEN_DIM
        convolution = nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False)
        nn.init.dirac_(convolution.weight, groups=C)
        block.mix = convolution  # so that it is trained
        block.register_forward_pre_hook(lambda module, args: (module.mix(args[0]), *args[1:]))


def read_by_channel(stage: Any) -> None:
    """Let each channel of the head read the tokens with weights of its own, instead of averaging them."""
    transformer = stage.blocks[-1].transformer
    transformer.reading = nn.Parameter(1 + torch.randn(NUM_TOKENS, TOKEN_DIM))
    transformer.register_forward_hook(lambda module, _args, out: out * module.reading)


def keep_few(stage: Any) -> None:
    """Give the second module the filters of four of the first one's tokens."""
    stage.blocks[1].tokenizer.to_filters.register_forward_hook(lambda _m, _args, filters: filters[:, :FEW])


def read_first(stage: Any) -> None:
    """Hand the second transformer the first module's tokens beside those of its own."""
    stage.blocks[1].transformer.register_forward_pre_hook(lambda _m, args: torch.cat([args[0], stage.first], dim=1))
    stage.blocks[1].tokenizer.register_forward_pre_hook(lambda _m, args: setattr(stage, "first", args[1]))


ONE: dict[str, Any] = dict(layers=(2, 2, 2, 1), num_tokens=1, relation="none", projector=False)
THREE = (compete, wake_projector, leave_lift_linear)
CENTRED = (compete, wake_projector, centre_update)
TRIALS = {
    "pooled": Trial("control: lift, average pooling", vt(tokenizer="pool", **ONE)),
    "one_filter": Trial("control: lift, one filter token", vt(**ONE)),
    "resnet": Trial("stage 5 of resnet18", resnet),
    "vt": Trial("VT as it is by default", vt()),
    "one_token": Trial("VT with one token", vt(num_tokens=1)),
    "normalised": Trial("VT, normalised logits", vt(normalise_logits)),
    "unit": Trial("VT, logits of pixels of one length", vt(ask_by_direction)),
    "shifted": Trial("VT, maps cut by a row and a column at random", vt(), cut=1),
    "own": Trial("VT, own filters beside those of eq. 2", vt(own_filters)),
    "awake": Trial("VT, projector awake from the start", vt(wake_projector)),
    "gain": Trial("VT, the gain of the awake alone", vt(raise_gain)),
    "queries": Trial("VT, the queries of the awake alone", vt(sharpen_queries)),
    "awake_one": Trial("VT with one token, projector awake", vt(wake_projector, num_tokens=1)),
    "uneven": Trial("VT, eq. 3 without its even part", vt(centre_relation)),
    "centred": Trial("VT, projector's values without their mean", vt(wake_projector, centre_update)),
    "dropped": Trial("VT, half of the tokens dropped", vt(drop_tokens)),
    "overlap": Trial("VT, overlap of the tokens' maps in the loss", vt(), overlap=1.0),
    "compete": Trial("VT, tokens compete for pixels", vt(compete)),
    "filters": Trial("VT, filters in both modules (Table 4)", vt(recurrent=False)),
    "largest": Trial("VT, head reads the largest of the tokens", vt(global_pool="max")),
    "awake_largest": Trial("VT, awake, head reads the largest of the tokens", vt(wake_projector, global_pool="max")),
    "awake_read": Trial("VT, awake, head with weights per token", vt(wake_projector, read_by_channel)),
    "awake_uneven_read": Trial(
        "VT, awake, no even part, head with weights per token", vt(wake_projector, centre_relation, read_by_channel)
    ),
    "awake_compete_read": Trial(
        "VT: compete, awake, filters, head with weights per token",
        vt(compete, wake_projector, read_by_channel, recurrent=False),
    ),
    "few": Trial("VT, four tokens in the second module", vt(keep_few)),
    "read_first": Trial("VT, transformer 2 reads the tokens of module 1 too", vt(read_first)),
    "pooled_muon": Trial("control: lift, average pooling; Muon", vt(tokenizer="pool", **ONE), muon="all"),
    "resnet_muon": Trial("stage 5 of resnet18; Muon", resnet, muon="all"),
    "muon": Trial("VT as it is by default; Muon", vt(), muon="all"),
    "muon_no_heads": Trial("VT as it is by default; Muon, AdamW for weights of heads", vt(), muon="no heads"),
    "linear": Trial("VT, lift without ReLU", vt(leave_lift_linear)),
    "mixed": Trial("VT, depthwise 3x3 before each module", vt(mix_neighbours)),
    "two": Trial("VT: compete, awake", vt(compete, wake_projector)),
    "two_filters": Trial("VT: compete, awake, filters", vt(compete, wake_projector, recurrent=False)),
    "two_linear": Trial("VT: compete, awake, filters, linear", vt(*THREE, recurrent=False)),
    "two_centred": Trial("VT: compete, awake, filters, centred", vt(*CENTRED, recurrent=False)),
}


class TwoHeads(nn.Module):
    """A stage 5 that answers with labels and, from the same features, with the teacher's classes."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage
        width = stage.num_features if isinstance(stage, VTResNet) else 512
        self.answers = nn.Linear(width, ANSWERS)  # type: ignore[arg-type]

    def forward(self, maps_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.stage, VTResNet):
            features = self.stage.forward_head(self.stage.forward_features(maps_BCHW), pre_logits=True)
            return self.stage.fc(features), self.answers(features)  # type: ignore[operator]
        head: Any = self.stage["head"]  # type: ignore[index]
        features = head[:2](self.stage["blocks"](maps_BCHW))  # type: ignore[index]
        return head[2](features), self.answers(features)


@dataclass
class Maps:
    """What trunk and teacher make of photos: maps (N, C, H, W) and answers (N, 1000) in 16 bits, labels (N,).

    Args:
        grid: how many photos lie side by side, and how many below one another, in what is asked about.
    """

    maps: np.ndarray
    answers: np.ndarray
    labels: np.ndarray
    grid: int = 1

    def batches(self, order: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield maps (B, C, grid H, grid W), the teacher's mean probabilities, labels and its classes (B, grid^2)."""
        k = self.grid**2
        for at in range(0, len(order) - k + 1, BATCH):
            chosen = order[at : at + BATCH]
            chosen = chosen[: len(chosen) // k * k]
            rows = np.sort(chosen)  # in the order of the file
            place = torch.from_numpy(np.searchsorted(rows, chosen))
            maps, answers, labels = (torch.from_numpy(p[rows])[place] for p in (self.maps, self.answers, self.labels))
            shares = answers.float().softmax(dim=1).unflatten(0, (-1, k)).mean(dim=1)
            yield side_by_side(maps, self.grid), shares, labels.view(-1, k), answers.argmax(dim=1).view(-1, k)

    def in_order(self) -> np.ndarray:
        """Return the order to validate in: a folder's own, or one where photos that lie together are of any class."""
        number = len(self.labels)
        return np.arange(number) if self.grid == 1 else np.random.default_rng(0).permutation(number)


def side_by_side(maps_NCHW: Tensor, grid: int) -> Tensor:
    """Lay the maps of grid^2 photos out as one, (N / grid^2, C, grid H, grid W)."""
    cells = maps_NCHW.unflatten(0, (-1, grid, grid))  # (B, grid, grid, C, H, W)
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def name_of(trunk: str) -> str:
    """Return what records and files call a trunk: its folder's name, or its own."""
    return without_folders(trunk).rpartition(":")[2]


def read_maps(data: Path, split: str, size: int, trunk: str, teacher: str, cache: Path, grid: int = 1) -> Maps:
    """Compute the maps of a split, or read those computed before."""
    files = [cache / f"{name_of(trunk)}_{split}_{size}_{what}.npy" for what in ("maps", "answers", "labels")]
    if not files[2].is_file():  # written last
        compute_maps(data / split, split == "train", size, (trunk, teacher), files)
    maps, answers, labels = (np.load(file, mmap_mode="r") for file in files)
    return Maps(maps, answers, labels, grid)


@torch.inference_mode()
def compute_maps(folder: Path, train: bool, size: int, names: tuple[str, str], files: list[Path]) -> None:
    """Compute maps of photos in folder order: random crops and flips to train on, whole and square to validate on."""
    torch.manual_seed(0)
    cut = [v2.RandomResizedCrop(size, SCALE), v2.RandomHorizontalFlip()] if train else [v2.Resize((size, size))]
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    dataset = create_dataset("", root=str(folder), transform=v2.Compose(cut + tensor))
    trunk: Any = timm.create_model(names[0], pretrained=True, features_only=True, out_indices=(3,))
    teacher: Any = timm.create_model(names[1], pretrained=True)
    for network in (trunk, teacher):
        network.float().eval().to(memory_format=torch.channels_last)
    shapes = (trunk.feature_info.channels()[0], *[math.ceil(size / 16)] * 2), (ANSWERS,)
    maps, answers = (
        np.lib.format.open_memmap(file, "w+", np.float16, (len(dataset), *shape))
        for file, shape in zip(files, shapes, strict=False)
    )
    labels, at = [], 0
    for images, targets in tqdm(DataLoader(dataset, batch_size=64), desc=folder.name, disable=None):
        images = images.contiguous(memory_format=torch.channels_last)
        rows = slice(at, at := at + len(images))
        maps[rows] = trunk(normalised(images, trunk))[0].numpy()
        answers[rows] = teacher(normalised(images, teacher)).numpy()
        labels.append(targets.numpy())
    maps.flush()
    answers.flush()
    np.save(files[2], np.concatenate(labels))


def normalised(images: Tensor, network: Any) -> Tensor:
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def divergence(logits: Tensor, shares: Tensor, reduction: str) -> Tensor:
    """Return `KL(shares || softmax(logits))`."""
    return F.kl_div(logits.log_softmax(dim=1), shares, reduction=reduction)


def optimizer_of(network: nn.Module, muon: str, rate: float) -> torch.optim.Optimizer:
    """Return AdamW, or Muon with the settings of the recipe `muon_imagenette`."""
    if not muon:
        return torch.optim.AdamW(network.parameters(), rate, weight_decay=WEIGHT_DECAY)
    of_heads = [p for p in network.parameters() if p.ndim == 3]
    others = [p for p in network.parameters() if p.ndim != 3]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": of_heads, "use_fallback": muon == "no heads"}]
    groups = [group for group in groups if group["params"]]
    return create_optimizer_v2(groups, "muon", rate, WEIGHT_DECAY, nesterov=True)


def train(trial: Trial, data: Maps, epochs: int, seed: int, rate: float = RATE) -> tuple[TwoHeads, float]:
    """Train a trial; returns the network and the mean loss of the last fifty updates, without the overlap."""
    torch.manual_seed(seed)
    network = TwoHeads(trial.build(data.maps.shape[1])).train()
    maps: list[Tensor] = []
    if trial.overlap:
        for module in network.modules():
            if isinstance(module, SpatialAttention):
                module.register_forward_hook(lambda _m, _args, out: maps.append(out))
    optimizer = optimizer_of(network, trial.muon, rate)
    updates = epochs * math.ceil(len(data.labels) / BATCH)

    def share(update: int) -> float:
        return min(1, (update + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * update / updates))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    generator = np.random.default_rng(seed)
    losses = []
    with tqdm(total=updates, desc=trial.what, disable=None) as progress:
        for epoch in range(epochs):
            for feature, shares, labels, _ in data.batches(generator.permutation(len(data.labels))):
                feature = feature.float().flip(-1) if epoch % 2 else feature.float()
                top, left = generator.integers(trial.cut + 1, size=2) if trial.cut else (0, 0)
                bottom, right = (side - trial.cut + at for side, at in zip(feature.shape[2:], (top, left), strict=True))
                feature = feature[..., top:bottom, left:right]
                maps.clear()
                of_labels, of_answers = network(feature)
                wanted = F.one_hot(labels, CLASSES).float().mean(dim=1)
                loss = F.cross_entropy(of_labels, wanted) + divergence(of_answers, shares, "batchmean")
                losses.append(loss.item())
                if trial.overlap:
                    loss = loss + trial.overlap * token_overlap(maps)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                progress.update()
    return network.eval(), float(np.mean(losses[-WARMUP:]))


@torch.inference_mode()
def validate(network: TwoHeads, data: Maps) -> dict[str, float]:
    """Return top-1 and agreement with the teacher in percent, and the divergence from its answers.

    Of several photos side by side, the classes among as many answers as they have classes count (`tokens.share_found`).
    """
    right = agreed = apart = number = 0.0
    for feature, shares, labels, named in data.batches(data.in_order()):
        of_labels, of_answers = network(feature.float())
        right += share_found(of_labels, labels).sum().item()
        agreed += share_found(of_answers, named).sum().item()
        apart += divergence(of_answers, shares, "sum").item()
        number += len(labels)
    return {
        "top1": round(100 * right / number, 2),
        "names_the_teachers_class": round(100 * agreed / number, 2),
        "divergence": round(apart / number, 4),
    }


def look_inside(model: nn.Module, data: Maps) -> dict[str, Any]:
    """Return what the tokens of a VT stage look like, and what it costs to take its parts out."""
    if not isinstance(model, VTResNet) or len(model.vt_stage.blocks) < 2:  # type: ignore[union-attr]
        return {}
    order = data.in_order()
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), LOOKED_AT * data.grid**2)).astype(int)]
    stage = look(model, ((feature.float(), labels) for feature, _, labels, _ in data.batches(chosen)))
    return {"seen": stage.seen, "ablations": ablate(stage)}


def recorded(trunk: str = FIRST_TRUNK, grid: int = 1) -> list[dict[str, Any]]:
    """Return the records of a trunk, of one photo or several side by side, in the order of the trials."""
    rows = [row for row in read_records(FILE).values() if (row["trunk"], row["grid"]) == (trunk, grid)]
    return sorted(rows, key=lambda row: list(TRIALS).index(row["trial"]))


def trial_table(rate: float = RATE, trunk: str = FIRST_TRUNK, size: int = SIZE, grid: int = 1) -> str:
    """Tabulate trials of this rate, trunk, size, grid and of seed 0: what each reached, what its tokens are worth."""
    lines = []
    for row in recorded(trunk, grid):
        if (row["rate"], row["seed"], row["size"]) != (rate, 0, size):
            continue
        first, second = row.get("seen", ({}, {}))
        worth = {(r["module"], r["what"]): f"{r['difference']:+.1f}" for r in row.get("ablations", ()) if r["part"]}
        mean, even = "tokens := their mean", "update := its mean over the pixels"
        lines.append([row["what"], *_scores(row), *(_percent(x.get("map_pairs_alike")) for x in (first, second)),
                      *(worth.get((module, mean)) for module in (1, 2)),
                      next((cost for (_, what), cost in worth.items() if "median" in what), None),
                      _percent(first.get("update_equal")), worth.get((1, even))])  # fmt: skip
    return table([*HEAD, "maps alike, module 1", "... 2", "tokens := mean, module 1", "... 2", "one token",
                  "update equal at every pixel", "update := mean"], lines)  # fmt: skip


def seeds_table(trunk: str = FIRST_TRUNK, size: int = SIZE) -> str:
    """Tabulate each trial and rate that ran at several of either: the mean over seeds, and their standard deviation."""
    found: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row in (row for row in recorded(trunk) if row["size"] == size):
        found.setdefault(row["what"], {}).setdefault(row["rate"], []).append(row)
    lines = []
    for what, by_rate in found.items():
        for rate, rows in sorted(by_rate.items()):
            if len(by_rate) > 1 or len(rows) > 1:
                columns = zip(*(map(float, _scores(row)) for row in rows), strict=True)
                lines.append([what, f"{rate:g}", len(rows), *map(_mean_and_deviation, columns)])
    return table([HEAD[0], "rate", "seeds", *HEAD[1:]], lines)


def _mean_and_deviation(values: tuple[float, ...]) -> str:
    mean = f"{np.mean(values):.2f}"
    return f"{mean} +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def _scores(row: dict[str, Any]) -> list[str]:
    return [f"{row['top1']:.2f}", f"{row['names_the_teachers_class']:.2f}", f"{row['divergence']:.3f}"]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


TABLES: dict[str, Callable[[], str]] = {
    "token_trials": trial_table,
    "token_trials_better_rate": partial(trial_table, BETTER_RATE),
    "token_trial_seeds": seeds_table,
    "token_trials_of_four": partial(trial_table, BETTER_RATE, grid=2),
    "token_trial_seeds_of_another": partial(seeds_table, OTHER_TRUNK, OTHER_SIZE),
    "token_trials_of_another": partial(trial_table, BETTER_RATE, OTHER_TRUNK, OTHER_SIZE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Imagenette, with train/ and val/")
    parser.add_argument("--teacher", default="tf_efficientnet_lite0.in1k", help="a timm model of ImageNet's classes")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for the maps, up to 600 MB for a trunk and size"
    )
    names = ", ".join(TRIALS)
    parser.add_argument("--trials", nargs="+", default=list(TRIALS), choices=TRIALS, metavar="NAME", help=names)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rate", type=float, default=RATE, help=f"learning rate (default: {RATE:g})")
    parser.add_argument("--trunk", required=True, help="a trained timm model, `local-dir:FOLDER` too")
    parser.add_argument("--size", type=int, default=SIZE, help=f"side of the photos in pixels (default: {SIZE})")
    parser.add_argument(
        "--grid", type=int, default=1, metavar="N", help="ask about N x N photos side by side (default: 1)"
    )
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/tokens/token_trials.json")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    trunk = name_of(args.trunk)
    several = f"{args.grid} x {args.grid} photos of " if args.grid > 1 else ""
    photos = f"{several}{args.size} px"
    training, validation = (
        read_maps(args.data, split, args.size, args.trunk, args.teacher, args.cache, args.grid)
        for split in ("train", "val")
    )
    for seed in args.seeds:
        for name in args.trials:
            network, loss = train(TRIALS[name], training, args.epochs, seed, args.rate)
            facts = {"trial": name, "what": TRIALS[name].what, "trunk": trunk, "size": args.size, "grid": args.grid}
            facts |= {"epochs": args.epochs, "rate": args.rate, "seed": seed}
            row = {**facts, "loss": round(loss, 4), **validate(network, validation)}
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            row |= {"parameters": sum(p.numel() for p in network.stage.parameters())}
            row |= look_inside(network.stage, validation)
            if args.write:
                keep_record(FILE, f"{name}, {trunk}, {photos}, rate {args.rate:g}, seed {seed}", row)


if __name__ == "__main__":
    main()
