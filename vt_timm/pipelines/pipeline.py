"""A trained model as one uses it on photos: a photo in, an answer out, and where its attention is."""

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..attention_maps import record_attention
from ..errors import CommandError, UserError, say
from ..images import MODES, ImageError, to_image
from ..weights.published import licence_on_card
from .answers import Answer, Look
from .onnx_file import OnnxFile

if TYPE_CHECKING:
    from ..export.write_file import Written
    from ..segmentation.settings import Settings
    from .validation import Validation

DISPLAY_SCALE = 3  # pixels of a picture to draw on, for each pixel that the network sees
BATCH = 16
# Batches of a call that are not folded. To fold takes as long as it saves vt_resnet18 in five, a segmenter in about ten
# photos (one trial on a thread of an AMD EPYC).
FOLDED_AFTER = 8
# Largest difference of a folded network's outputs, as a share of the largest, as it is and in float64.
FOLDED_AS, FOLDED_AS_EXACTLY = 1e-4, 1e-8


class Ready(NamedTuple):
    """A photo as it was read, and what the network sees of it if that is the same whatever is asked for."""

    image: Image.Image
    input: Tensor | None


Photo = str | Path | bytes | Image.Image | np.ndarray | Ready
# What is one photo, or is meant as one, although one can iterate over it.
ONE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, np.ndarray, Tensor, Mapping, Ready)


class Pipeline(ABC):
    """A trained model with all that stands between a photo and an answer.

    `vt_timm.load` makes it. `ClassificationPipeline` and `SegmentationPipeline` are the two kinds; nobody else has to
    know which one a model is.

    Args:
        module: the network, in eval mode.
        name: the name that it was loaded by.
    """

    kind = "classifier"
    command = "`vt-timm classify` names what is on photos"
    place = "VT module"  # what one of its attention maps belongs to
    sample = "photo"  # which of `images.SAMPLES` suits it
    any_size = False  # True if its file must take images of any size

    def __init__(self, module: nn.Module, name: str = "") -> None:
        self.module = module
        self.name = name

    @overload
    def __call__(self, photo: Photo, **options: Any) -> Answer: ...
    @overload
    def __call__(self, photo: Sequence[Photo], **options: Any) -> list[Answer]: ...
    def __call__(self, photo: Photo | Sequence[Photo], **options: Any) -> Answer | list[Answer]:
        """Answer for a photo, or for each of several.

        >>> import vt_timm
        >>> model = vt_timm.load("vt_resnet18")
        >>> print(model(vt_timm.sample_photo(), topk=1).label)
        church
        >>> [answer.label for answer in model([vt_timm.sample_photo(), vt_timm.sample_photo()])]
        ['church', 'church']

        Args:
            photo: a file's name, the file opened, its bytes, a PIL image, or an array (H, W) or (H, W, channels); or
                a list of them.
            options: those of `answers`.

        Raises:
            UserError: in one line, for a photo that cannot be read.
        """
        if isinstance(photo, ONE) or hasattr(photo, "read") or not isinstance(photo, Iterable):
            return next(self.answers([photo], **options))  # type: ignore[list-item]
        return list(self.answers(photo, **options))

    @abstractmethod
    def answers(self, photos: Iterable[Photo], *args: Any, **options: Any) -> Iterator[Answer]:
        """Yield the answer for one photo after the other, as soon as it is known.

        >>> import vt_timm
        >>> for answer in vt_timm.load("vt_resnet18").answers([vt_timm.sample_photo()]):
        ...     print(answer.label)
        church
        """

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """What the classes are called, in the order of the outputs."""

    @property
    def channels(self) -> int:
        """The number of channels of the images that it takes."""
        return int(getattr(self.module, "in_chans", 3))

    def read(self, photo: Photo) -> Image.Image:
        """Return a photo in the channels that the network takes, the right way up.

        Raises:
            UserError: in one line, for a photo that cannot be read.
        """
        if isinstance(photo, Ready):
            return photo.image
        image = to_image(photo, read_mode(self))
        for name in (photo, getattr(photo, "filename", None), getattr(photo, "name", None)):
            if isinstance(name, (str, os.PathLike)) and os.fspath(name):
                image.filename = os.path.abspath(name)  # type: ignore[attr-defined]  # as Pillow calls it
                break
        return image

    def prepare(self, photo: Photo) -> Ready:
        """Read a photo and bring it to what the network sees, which another thread may do before it is asked for.

        Raises:
            UserError: in one line, for a photo that cannot be read.
        """
        return photo if isinstance(photo, Ready) else Ready(self.read(photo), None)

    @property
    def in_file(self) -> bool:
        """True for a model in a file of `vt-timm export`, which answers but keeps no attention."""
        return isinstance(self.module, OnnxFile)

    def expect(self, kind: str) -> "Pipeline":
        """Return the model itself, if it is of a kind, "classifier" or "segmenter".

        Raises:
            CommandError: otherwise, naming the command that takes it.
        """
        if self.kind != kind:
            raise CommandError(f"{self.name} is a {self.kind}, and not a {kind}: {self.command} with it")
        return self

    @property
    def checksum(self) -> str:
        """The SHA-256 of the state dict, names and values in order, the same for a checkpoint and a Hub folder."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # NumPy knows no bfloat16
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    @property
    def licence(self) -> str | None:
        """The licence of the weights: what their config says, else the card beside them, here or on the Hub."""
        return getattr(self.module, "pretrained_cfg", {}).get("license") or licence_on_card(self.name)

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what a file of the model has to say of itself, beside the names of the classes."""

    @abstractmethod
    def example(self) -> Tensor:
        """Return a batch of two images of smooth noise, to trace the network with."""

    @abstractmethod
    def folded(self, rows: bool = False) -> nn.Module:
        """Return a copy of the network for inference with all that is constant multiplied out.

        Args:
            rows: as `folding.fold.FoldedStage` takes it.
        """

    @abstractmethod
    def validation(self, folder: str, settings: "Settings | None" = None) -> "Validation":
        """Return the labelled photos of a folder, to score the model on.

        Args:
            folder: a folder of photos per class for a classifier, a data set for a segmenter.
            settings: settings of a segmenter's training, which say what the masks mean.

        Raises:
            UserError: for classes that are not the model's, and what is missing.
        """

    def score(self, folder: str | Path, settings: "Settings | None" = None) -> dict[str, float]:
        """Score the model on labelled photos.

        >>> import vt_timm
        >>> vt_timm.load("vt_resnet18").score("PHOTOS")  # PHOTOS/church/1.jpg, ...
        {'top-1': 100.0, 'top-5': 100.0}

        Args:
            folder, settings: as for `validation`.

        Returns:
            Accuracies in percent: "top-1" and, of more than five classes, "top-5" of a classifier; "mIoU" and "pixel
            accuracy" of a segmenter and, with a class "background", both of the others alone.

        Raises:
            UserError: in one line, for classes that are not the model's, and what is missing.
        """
        networks = self.networks()
        return self.validation(str(folder), settings).accuracies([lambda images: self.run(images, next(networks))])[0]

    @abstractmethod
    def view(self, photo: Image.Image) -> Image.Image:
        """Return the part of the photo that the network sees, at the size at which it does."""

    @abstractmethod
    def display(self, photo: Image.Image) -> Image.Image:
        """Return the same part with more pixels, to draw on."""

    @abstractmethod
    def input(self, view: Image.Image) -> Tensor:
        """Return a view as a normalised batch of one, (1, channels, H, W)."""

    def networks(self) -> Iterator[nn.Module]:
        """Yield the network for each batch of one call: the module, and a folded copy of it once that pays.

        The copy lives as long as the call. It would not know what becomes of the module later: weights that an
        optimizer writes without a word, hooks, another activation.
        """
        yield from repeat(self.module, FOLDED_AFTER)
        yield from repeat(self.fold())

    def fold(self) -> nn.Module:
        """Return a copy of the module with its norms and VT modules folded: the same function in less time.

        A model of another's that cannot be folded is returned as it is, and so is one with hooks, which would see the
        copy's work.
        """
        modules = list(self.module.modules())
        if self.in_file or not any(isinstance(module, _BatchNorm) for module in modules):
            return self.module
        if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
            return self.module
        from ..folding.fold import fold_norms

        with evaluating(self.module), torch.autocast(next(self.module.parameters()).device.type, enabled=False):
            return self._folded_if_same(fold_norms)

    def _folded_if_same(self, fold_norms: Callable[[nn.Module, Tensor], nn.Module]) -> nn.Module:
        try:
            example = as_it_takes(self.example()[:1], self.module)
            network = fold_norms(self.folded(), example)
            if _apart(network, self.module, example) <= FOLDED_AS:
                return network
            # Rounding alone moves the outputs of a network whose softmaxes are sharp as far: in float64 it does not.
            exact = type(self)(copy.deepcopy(self.module).to("cpu", torch.float64), self.name)
            example = example.to("cpu", torch.float64)
            same = _apart(fold_norms(exact.folded(), example), exact.module, example) <= FOLDED_AS_EXACTLY
        except (AttributeError, RuntimeError, TypeError):  # a model of another's may do what it likes
            return self.module
        return network if same else self.module

    def run(self, batch: Tensor, network: nn.Module | None = None) -> Tensor:
        """Return the network's output for a batch of inputs, in float32 on the CPU.

        Args:
            batch: as `input` gives them.
            network: a folded copy; None for the module itself, the same bit for bit wherever its weights are.

        Raises:
            UserError: for answers that are no numbers.
        """
        network = self.module if network is None else network
        if not self.in_file:  # the order in which convolutions are fastest on a CPU
            batch = as_it_takes(batch, self.module).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), evaluating(network):
            output = network(batch).float().cpu()
        check_numbers(output)
        return output.clone()  # a plain tensor, of which gradients may be asked

    @abstractmethod
    def describe(self, photo: Image.Image, output: Tensor) -> Answer:
        """Return the answer for a photo, given the network's output (1, ...) for its view."""

    def attention_modules(self) -> nn.Module:
        """Return the part of the network whose attention is looked at, for `record_attention`."""
        return self.module

    def attention(self, photo: Photo, of: str = "tokenizer") -> Look:
        """Look at a photo and keep where the tokens look (Figures 5 and 7).

        >>> import vt_timm
        >>> look = vt_timm.load("vt_resnet18").attention(vt_timm.sample_photo())
        >>> print(look.save("tokens.png"))
        tokens.png

        Args:
            photo: as for a call.
            of: "tokenizer" or "projector", as in `record_attention`.

        Raises:
            UserError: in one line, for a photo that cannot be read.
            ValueError: if the model has no such attention.
        """
        if self.in_file:
            raise ValueError("an ONNX file keeps no attention: name the model that it was exported from")
        image = self.read(photo)
        modules = self.attention_modules()
        with record_attention(modules) as all_maps, record_attention(modules, of) as maps:
            output = self.run(self.input(self.view(image)))
        maps = [attention[0].float().cpu().clone() for attention in maps]  # plain tensors, as of `run`
        return Look(self.display(image), self.describe(image, output), maps, len(all_maps))

    def export(self, path: str | Path, **options: Any) -> "Written":
        """Write the model to one file that carries what it needs: .onnx, .pt2 or .aoti.pt2.

        >>> import vt_timm
        >>> written = vt_timm.load("vt_resnet_micro").export("vt.pt2")
        >>> print(vt_timm.load("vt_resnet_micro").name, written.size > 0)
        vt_resnet_micro True

        Args:
            path: the file; its ending says the format.
            options: those of `vt_timm.export.write_file.Options`, such as int8=True and calibrate="PHOTOS".

        Returns:
            The file's size, and how far its answers are from the model's.

        Raises:
            UserError: in one line, if it cannot be exported, or answers differently.
        """
        from ..export.write_file import Options, write_file

        with evaluating(self.module):
            return write_file(self, Path(path), Options(**options))


@torch.inference_mode()
def _apart(network: nn.Module, module: nn.Module, example: Tensor) -> float:
    """Return the largest difference of two networks' outputs, as a share of the largest output."""
    expected = module(example)
    return ((network(example) - expected).abs().max() / expected.abs().max()).item()


def as_it_takes(batch: Tensor, module: nn.Module) -> Tensor:
    """Return a batch on the device and in the precision of a network."""
    first = next(module.parameters())
    return batch.to(first.device, first.dtype if first.is_floating_point() else batch.dtype)


def check_numbers(output: Tensor) -> None:
    """Refuse logits (B, K, ...) of which softmax and argmax would make classes that nobody found.

    A class that is kept out by -inf is no such thing.

    Raises:
        UserError: saying where such an answer comes from.
    """
    if not output.amax(dim=1).isfinite().all():
        what = "no numbers (NaN)" if output.isnan().any() else "infinity"
        raise UserError(f"the model answers with {what}: its training diverged, or its precision is too low")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Let a network answer in eval mode; one that is being trained goes on in train mode afterwards.

    In train mode it would answer by the photos beside, and norms would take them into their statistics.
    """
    modes = [(module, module.training) for module in network.modules()] if network.training else []
    if modes:  # where parts alone are in train mode, somebody wants them so
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def batched(photos: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of as many as that, the last one shorter."""
    photos = iter(photos)
    while batch := list(islice(photos, size)):
        yield batch


def inputs(model: Pipeline, photos: Iterable[Path]) -> Iterator[tuple[Path, Tensor]]:
    """Yield photos with what the network sees of them; what cannot be read is named on stderr and skipped.

    Raises:
        CommandError: if none can be read.
    """
    read = False
    for path in photos:
        try:
            image = model.input(model.view(model.read(path)))
        except ImageError as error:
            say(f"skipped {error}")
            continue
        read = True
        yield path, image
    if not read:
        raise CommandError("none of the images could be read")


def smooth_noise(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Return images of smooth noise, (batch, channels, height, width), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, channels, height // 7, width // 7, generator=generator, device="cpu")
    return nn.functional.interpolate(pixels, (height, width), mode="bicubic")


def read_mode(model: Pipeline) -> int:
    """Return the number of channels to read a photo with.

    Raises:
        CommandError: for a number that Pillow has no mode for.
    """
    if model.channels not in MODES:
        raise CommandError(
            f"the model takes {model.channels} channels: photos have 1, 3 or 4, so give its module batches of numbers"
        )
    return model.channels
