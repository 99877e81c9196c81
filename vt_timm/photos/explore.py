"""A page to explore a photo: what the model says, where its tokens look, and which tokens claim a place.

    vt-timm explore                                         # the shipped models, on this machine only
    vt-timm explore --models vt_resnet18 RUN/best           # also a segmenter

`hub/space/` is the same page as a Space of the Hugging Face Hub. Needs gradio and matplotlib. A visitor's photo and
maps live in the visitor's session and nowhere else; uploaded files are deleted after an hour.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import CommandError
from ..images import ImageError, read_image
from ..weights.published import published_segmenters
from .draw import overlay, paint_segmentation
from .look import Look, look
from .models import PhotoModel, load

__all__ = ["build", "serve"]

LIMIT_MEGABYTES, LIMIT_MEGAPIXELS, ENOUGH_PIXELS = 100, 150, 1600
KEEP_SECONDS = 3600
THUMBNAIL = 240  # pixels of a token's small picture
TOP_TOKENS = 6
INVITATION = "Click a place in the photo."
NO_TOKENS = "This model is a file, which answers without showing its tokens."
KINDS = {"where tokens look": "tokenizer", "which tokens the pixels read": "projector"}
HELP = """\
Drop a photo. Each **token** is a weighted mean of the photo's pixels; its map shows the weights, red high and blue low,
each map on its own scale. Click a token to see it large; click a place in the photo to see which tokens claim it.
The shipped weights know ten things: tench, English springer, cassette player, chain saw, church, French horn, garbage
truck, gas pump, golf ball, parachute.
"""

_one_at_a_time = threading.Lock()  # attention is recorded by hooks on a model that all visitors share


@dataclass
class Session:
    """What one visitor sees: a look at a photo, and which module of it."""

    look: Look
    picture: Image.Image  # the view, of a segmenter with its classes painted on
    module: int
    kind: str
    token: int = 0

    @property
    def maps(self) -> Tensor:
        """(L, H, W) of the chosen module."""
        return self.look.maps[self.module]


def _path(payload: ImageData | None) -> str | None:
    """An upload handed over unread: gradio would open it, and answer a broken file with a traceback."""
    return payload.path if payload else None


@cache
def _model(name: str) -> PhotoModel:
    return load(name, "cpu")


def open_photo(path: str) -> Image.Image:
    """The photo, small enough to work with.

    Raises:
        gr.Error: in a sentence for the visitor, if it is not a photo or far too large.
    """
    try:
        with Image.open(path) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > LIMIT_MEGAPIXELS:
                raise Image.DecompressionBombError
        photo = read_image(Path(path), ENOUGH_PIXELS)
    except Image.DecompressionBombError as error:
        limit = f"This picture has too many pixels; up to {LIMIT_MEGAPIXELS} megapixels are fine."
        raise gr.Error(limit, print_exception=False) from error
    except (ImageError, OSError, SyntaxError, ValueError) as error:
        advice = "This file is not a picture that can be read. Try a JPEG or a PNG."
        raise gr.Error(advice, print_exception=False) from error
    photo.thumbnail((ENOUGH_PIXELS, ENOUGH_PIXELS))
    return photo


def examine(path: str | None, name: str, module: int, kind: str) -> tuple[Any, ...]:
    """Everything on the page for a photo, a model and a module."""
    if path is None:
        return None, None, None, [], None, "", _title(0), gr.skip()
    photo = open_photo(path)
    model = _model(name)
    if not model.keeps_attention:
        found = Look(model.view(photo), model.describe(model.run(model.input(model.view(photo)))), [], 0)
        return None, _picture(found), found.answer.shares, [], None, NO_TOKENS, _title(0), gr.skip()
    with _one_at_a_time:
        try:
            found = look(model, photo, KINDS[kind])
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
    number = len(found.maps)
    session = Session(found, _picture(found), min(module, number) - 1, kind)
    modules = gr.Radio(choices=list(range(1, number + 1)), value=session.module + 1)
    gallery, large = _gallery(session), _large(session)
    return session, session.picture, found.answer.shares, gallery, large, INVITATION, _title(0), modules


def _picture(found: Look) -> Image.Image:
    labels = found.answer.labels
    return found.view if labels is None else paint_segmentation(found.view, labels, len(found.answer.class_names))


def _gallery(session: Session) -> list[tuple[Image.Image, str]]:
    small = session.look.view.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return [(overlay(small, attention), str(i)) for i, attention in enumerate(session.maps, start=1)]


def _large(session: Session) -> Image.Image:
    return overlay(session.look.view, session.maps[session.token])


def _title(token: int) -> str:
    return f"### Token {token + 1}"


def _claims(session: Session, x: int, y: int) -> str:
    """Which tokens claim a pixel of the view, by the weight that each map gives it; of a segmenter also its class."""
    size = (session.look.view.height, session.look.view.width)
    weights = interpolate(session.maps[None].float(), size, mode="bilinear", align_corners=False)[0, :, y, x]
    shares = weights / weights.sum()
    best = shares.argsort(descending=True)[:TOP_TOKENS].tolist()
    listed = "\n".join(f"- token {i + 1}: {100 * shares[i]:.0f} %" for i in best)
    what = "weight that the tokens give this place" if session.kind == next(iter(KINDS)) else "what this place reads"
    name = session.look.class_at(x / size[1], y / size[0])
    return f"**{x}, {y}**{f', {name}' if name else ''} ({what}):\n\n{listed}"


def choose_token(session: Session | None, event: gr.SelectData) -> tuple[Session | None, Any, str]:
    if session is None:
        return None, None, ""
    session.token = int(event.index)
    return session, _large(session), _title(session.token)


def choose_place(session: Session | None, event: gr.SelectData) -> tuple[Any, str]:
    if session is None:
        return gr.skip(), ""
    x, y = (int(value) for value in event.index)
    marked = session.picture.copy()
    radius = max(4, marked.width // 60)
    draw = ImageDraw.Draw(marked)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", width=3)
    draw.ellipse((x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2), outline="black", width=2)
    return marked, _claims(session, x, y)


def shipped_models() -> list[str]:
    """What the page offers from the start: the classifiers and the segmenters that ship."""
    return ["vt_resnet18", "vt_resnet_micro", *published_segmenters()]


def build(models: Sequence[str]) -> gr.Blocks:
    """The page.

    Args:
        models: to choose from: names of timm's with weights, local-dir:FOLDER, hf-hub:ORG/NAME, or segmenters' folders.

    Raises:
        CommandError: if the first cannot be loaded.
    """
    if not models:
        raise CommandError("there is no model to explore")
    _model(models[0])
    with gr.Blocks(title="Visual tokens", analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as page:
        session = gr.State(None)
        gr.Markdown(f"# Visual tokens\n\n{HELP}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.Image(sources=["upload", "clipboard"], label="Your photo", elem_id="upload", height=240)
                upload.preprocess = _path  # type: ignore[method-assign]
                name = gr.Dropdown(list(models), value=models[0], label="Model", elem_id="model")
                module = gr.Radio([1, 2], value=1, label="VT module, or level of VT-FPN", elem_id="module")
                kind = gr.Radio(list(KINDS), value=next(iter(KINDS)), label="Attention", elem_id="kind")
                answers = gr.Label(label="What it sees", num_top_classes=5, elem_id="answers")
            with gr.Column(scale=2, min_width=320):
                with gr.Row():
                    with gr.Column(min_width=240):
                        gr.Markdown("### As the model sees it")
                        view = gr.Image(interactive=False, show_label=False, elem_id="view", buttons=[])
                        claims = gr.Markdown(elem_id="claims")
                    with gr.Column(min_width=240):
                        chosen = gr.Markdown(_title(0), elem_id="chosen")
                        large = gr.Image(interactive=False, show_label=False, elem_id="large", buttons=[])
                gr.Markdown("### All tokens")
                tokens = gr.Gallery(
                    show_label=False,
                    columns=4,
                    height="auto",
                    allow_preview=False,
                    object_fit="contain",
                    elem_id="tokens",
                    format="jpeg",
                    buttons=[],
                )
        shown = [session, view, answers, tokens, large, claims, chosen, module]
        for component in (upload, name, kind):
            component.change(examine, [upload, name, module, kind], shown, api_visibility="private")
        module.input(examine, [upload, name, module, kind], shown, api_visibility="private")
        tokens.select(choose_token, session, [session, large, chosen], api_visibility="private")
        view.select(choose_place, session, [view, claims], api_visibility="private")
    return page


CSS = """
#tokens .grid-wrap { max-height: none; height: auto; overflow: visible; }
#tokens .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; height: auto; }
"""


def serve(
    models: Sequence[str] | None = None, host: str | None = None, port: int | None = None, open_browser: bool = False
) -> None:
    """Show the page until it is interrupted; gradio chooses host and port if they are not given."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    build(models or shipped_models()).launch(
        inbrowser=open_browser,
        server_name=host,
        server_port=port,
        theme=theme,
        css=CSS,
        max_file_size=f"{LIMIT_MEGABYTES}mb",
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        share=False,
    )
