"""Classifiers of photos."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config
from timm.utils.misc import natural_key
from torch import Tensor, nn
from torchvision.transforms import Compose
from torchvision.transforms.v2 import functional as transforms

from ..errors import UserError, check_positive
from ..images import MODES, per_channel
from ..runs.train_run import describe_classes
from ..weights.published import names_of_head, names_of_outputs, unsure_below
from .answers import Answer
from .pipeline import BATCH, DISPLAY_SCALE, Photo, Pipeline, Ready, batched, smooth_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..segmentation.settings import Settings
    from .validation import Validation

TOP = 5
THIN = 16  # so many times as long as it is wide, a photo is drawn with no more detail than the network sees


@dataclass(eq=False)
class Classification(Answer):
    """A classifier's answer.

    >>> import vt_timm
    >>> answer = vt_timm.load("vt_resnet18")(vt_timm.sample_photo())
    >>> answer.label
    'church'
    >>> print(answer.caption)
    church 99 %
    >>> list(answer.scores)[1]
    'French horn'

    Args:
        top: name, index and probability of the most probable classes.
        scores: the probability of every class, the largest first.
        unsure_below: the probability under which the model's config calls an answer unsure, 0 if it does not say.
    """

    top: list[dict[str, Any]]
    scores: dict[str, float] = field(repr=False)
    unsure_below: float = field(default=0.0, repr=False)

    @property
    def unsure(self) -> bool:
        """True if the most probable class is less probable than `unsure_below`."""
        return self.top[0]["probability"] < self.unsure_below

    @property
    def caption(self) -> str:
        return f"{self.label} {100 * self.shares[self.label]:.0f} %" if self.shares else ""

    def to_dict(self) -> dict[str, Any]:
        return {"top": self.top, **({"unsure": self.unsure} if self.unsure_below else {})}

    def __str__(self) -> str:  # two classes of ImageNet's have one name, which `shares` would merge
        lines = [f"  {100 * one['probability']:5.1f} %  {one['class']}" for one in self.top]
        return "\n".join(lines + [f"  unsure: below {100 * self.unsure_below:.0f} %"] * self.unsure)

    def draw(self) -> "Figure":
        """Draw the photo, and a bar for each of the most probable classes.

        >>> import vt_timm
        >>> figure = vt_timm.load("vt_resnet18")(vt_timm.sample_photo()).draw()
        >>> len(figure.axes)
        2
        """
        from ..photos.draw import draw_classification

        return draw_classification(self.photo, [(one["class"], one["probability"]) for one in self.top])


class ClassificationPipeline(Pipeline):
    """Any classifier of timm's: its own size, crop, interpolation, colours and class names."""

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        config = resolve_data_config({}, model=module, use_test_size=True)
        self.config = {**config, **{key: per_channel(config[key], self.channels) for key in ("mean", "std")}}
        *geometry, self.to_tensor, self.normalize = create_transform(**self.config).transforms
        self.geometry = Compose(geometry)

    @property
    def unsure_below(self) -> float:
        """The probability under which the head that the module has now is unsure, 0 if its config does not say."""
        return unsure_below(getattr(self.module, "pretrained_cfg", {}))

    @property
    def class_names(self) -> list[str]:
        """What the classes are called: those of the head that the module has now."""
        return class_names(self.module)

    def view(self, photo: Image.Image) -> Image.Image:
        return self.geometry(photo)

    def display(self, photo: Image.Image) -> Image.Image:
        if max(photo.size) > THIN * min(photo.size):  # which is enlarged whole before its middle is cut out
            view = self.view(photo)
            return view.resize((DISPLAY_SCALE * view.width, DISPLAY_SCALE * view.height), Image.Resampling.BICUBIC)
        channels, height, width = self.config["input_size"]
        config = {**self.config, "input_size": (channels, DISPLAY_SCALE * height, DISPLAY_SCALE * width)}
        return Compose(create_transform(**config).transforms[:-2])(photo)

    def input(self, view: Image.Image) -> Tensor:
        return self.normalize(self.to_tensor(view)).unsqueeze(0)

    def prepare(self, photo: Photo) -> Ready:
        image = self.read(photo)
        return photo if isinstance(photo, Ready) else Ready(image, self.input(self.view(image)))

    def facts(self) -> dict[str, Any]:
        keys = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")
        return {"kind": self.kind, **{key: self.config[key] for key in keys}}

    def example(self) -> Tensor:
        """Return images as it sees photos, at its own size, since the tracer takes what it meets for the rule."""
        if self.channels not in MODES:
            return smooth_noise(2, self.channels, *self.config["input_size"][-2:])
        pixels = (64 * smooth_noise(2, self.channels, 320, 320) + 128).clamp(0, 255).byte()
        return torch.cat([self.input(self.view(transforms.to_pil_image(image))) for image in pixels])

    def folded(self, rows: bool = False) -> nn.Module:
        from ..folding.fold import folded

        return folded(self.module, rows)

    def validation(self, folder: str, settings: "Settings | None" = None) -> "Validation":
        from .validation import ClassFolders

        return ClassFolders(self, folder)

    def answers(self, photos: Iterable[Photo], topk: int = TOP, batch_size: int = BATCH) -> Iterator[Classification]:
        """Yield the answer for one photo after the other.

        Args:
            photos: as for a call.
            topk: how many classes an answer names.
            batch_size: how many photos the network sees at a time.

        Raises:
            ValueError: for numbers below 1.
            UserError: for a model without classes, and one whose answers are no numbers.
        """
        topk, batch_size = check_positive("topk", topk), check_positive("batch_size", batch_size)
        if not self.module.num_classes:
            raise UserError(f"{self.name or 'the model'} has no classes, and so no answer: it gives features alone")
        for batch, network in zip(batched(map(self.prepare, photos), batch_size), self.networks(), strict=False):
            output = self.run(torch.cat([ready.input for ready in batch]), network)
            for ready, logits_K in zip(batch, output, strict=True):
                yield self.describe(ready.image, logits_K[None], topk)

    def describe(self, photo: Image.Image, output: Tensor, topk: int = TOP) -> Classification:
        names = self.class_names
        ranked = ranked_classes(output, names) if names else []
        scores: dict[str, float] = {}
        for one in ranked:  # of two classes of a name the larger
            scores.setdefault(one["class"], one["probability"])
        top = ranked[:topk]
        shares = {one["class"]: scores[one["class"]] for one in top}
        return Classification(photo, names, shares, top, scores, self.unsure_below)


def class_names(model: nn.Module) -> list[str]:
    """Return what the classes are called: from the model's own config, or ImageNet's names by class count, or numbers.

    If there are more or fewer names than classes, they belong to another head and are not used. Neither is a
    description of a name that is not there: timm leaves the old ones beside the names that a new head was saved with.
    """
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})  # type: ignore[assignment]
    num_classes: int = model.num_classes  # type: ignore[assignment]
    if names := names_of_head(model):
        described = config.get("label_descriptions")
        described = described if isinstance(described, Mapping) else {}
        return [str(described.get(name, name)) for name in names]
    if subset := infer_imagenet_subset({"num_classes": num_classes}):
        info = _imagenet(subset)
        return [info.index_to_description(i) for i in range(num_classes)]
    return [f"class {i}" for i in range(num_classes)]


def labels_of_folders(folders: Iterable[str], model: nn.Module) -> dict[str, int] | None:
    """Return the output of a classifier that each folder of photos is of, or None where nobody knows.

    A folder is called as its class is, or described. Of a model whose classes have numbers alone, and of one with as
    many as ImageNet, the folders of all classes count in timm's order, 2 before 10.
    """
    names = sorted(folders, key=natural_key)
    classes = class_names(model)
    described = list(describe_classes(names)["label_descriptions"].values())  # an ONNX file keeps no WordNet names
    for known, called in ((names_of_outputs(model), names), (classes, names), (classes, described)):
        if names and set(called) <= set(known) and len(set(called)) == len(names):
            return {name: known.index(one) for name, one in zip(names, called, strict=True)}
    have_numbers_alone = classes == [f"class {i}" for i in range(len(classes))]
    if len(names) == len(classes) and (have_numbers_alone or len(classes) >= 1000):  # ImageNet's, or as many
        return {name: i for i, name in enumerate(names)}
    return None


_imagenet = cache(ImageNetInfo)  # which reads its names from files at every call


def ranked_classes(logits_1K: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Return all classes of a photo with name, index and probability, the most probable first.

    A model with one logit answers yes or no: its probability is the sigmoid, and the rest is "not" that class.
    """
    if logits_1K.shape[1] == 1:
        yes = logits_1K.sigmoid()
        logits_1K, names = torch.cat([yes, 1 - yes], dim=1).log(), [names[0], f"not {names[0]}"]
    values, indices = logits_1K[0].softmax(dim=0).sort(descending=True)
    ranked = zip(values.tolist(), indices.tolist(), strict=True)
    return [{"class": names[i], "index": i, "probability": round(p, 6)} for p, i in ranked]
