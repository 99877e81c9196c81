"""A page to explore a photo: what the model says, where its tokens look, and which tokens claim a place.

    vt-timm explore                                         # the shipped models, on this machine only
    vt-timm explore --models vt_resnet18 RUN/best           # also a segmenter

`hub/space/` is the same page as a Space of the Hugging Face Hub. Needs gradio and matplotlib. Visitors share
nothing. Uploads and drawn pictures are temporary files on the server, each deleted one to two hours after it was
written.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, wraps
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from ..errors import CommandError, UserError
from ..images import SAMPLES, ImageError, sample_photo
from ..pipelines.pipeline import Pipeline
from ..pipelines.sources import load, published_segmenters
from . import words
from .session import Session, open_photo

LIMIT_MEGABYTES = 100
KEEP_SECONDS = 3600
COLUMNS, COLUMNS_IF_WIDE, WIDE = 4, 2, 2.0  # columns of the gallery, and for a photo this many times as wide as high
CSS = Path(__file__).with_name("explore.css")

Shown = dict[Any, Any]  # what changes on the page, by component


def _path(payload: ImageData | None) -> str | None:
    """Hand an upload over unread: gradio would open it, and answer a broken file with a traceback."""
    return payload.path if payload else None


def _of_its_own(picture: Image.Image) -> Image.Image:
    """Return a copy with a comment of its own: gradio writes equal pictures into one file, while others load it."""
    picture = picture.copy()
    picture.info["comment"] = uuid4().bytes
    return picture


@cache
def _model(name: str) -> Pipeline:
    return load(name, "cpu")


def _kindly(handler: Callable[..., Shown]) -> Callable[..., Shown]:
    """An error becomes one message, and the page stays as it was."""

    @wraps(handler)
    def handle(page: "Page", session: Session, *arguments: Any) -> Shown:
        try:
            return {page.session: session, **handler(page, session, *arguments)}
        except UserError as error:
            gr.Warning(escape(str(error)))
            return {page.session: session, page.kind: session.kind, page.model: session.model}

    return handle


def shipped_models() -> list[str]:
    """Return what the page offers from the start: the classifiers and the segmenters that ship."""
    return ["vt_resnet18", "vt_resnet_micro", *published_segmenters()]


def sample_photos() -> dict[str, str]:
    """Return the sample photos that are installed: each comes with a library, and matplotlib's is always there."""
    found = {}
    for name in SAMPLES:
        with suppress(ImageError):
            found[name] = str(sample_photo(name))
    return found


class Page:
    """The components of the page, and what happens when a visitor uses one.

    The page comes with a sample photo that was looked at: `self.first` is where every visitor begins.

    Args:
        models: models to choose from: names of timm's with weights, local-dir:FOLDER, hf-hub:ORG/NAME, segmenters'
            folders, or files of `vt-timm export`.

    Raises:
        UserError: if there is none, or the first cannot be loaded.
    """

    def __init__(self, models: Sequence[str]) -> None:
        if not models:
            raise CommandError("there is no model to explore")
        self.samples = sample_photos()
        self.first = self._with_sample(models[0])
        with gr.Blocks(title="Visual tokens", analytics_enabled=False, delete_cache=(KEEP_SECONDS,) * 2) as self.blocks:
            self.session = gr.State(self.first)
            gr.Markdown(words.INTRODUCTION, elem_id="intro")
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=3, min_width=320):
                    self._add_photo()
                with gr.Column(scale=2, min_width=320):
                    self._add_tokens(models)
            self._connect()

    def _with_sample(self, name: str) -> Session:
        """A model's look at the sample photo that suits it."""
        model = _model(name)
        path = self.samples.get(model.sample, next(iter(self.samples.values())))
        return Session.begin(open_photo(path), name, model, own_photo=False)

    def _add_photo(self) -> None:
        first = self.first
        with gr.Row(elem_id="photos"):
            self.sample = gr.Dataset(
                components=[gr.Image(visible=False)],
                samples=[[path] for path in self.samples.values()],
                type="index",
                show_label=False,
                elem_id="samples",
            )
            self.upload = gr.Image(
                sources=["upload"], show_label=False, height=78, placeholder=words.UPLOAD, elem_id="upload", buttons=[]
            )
            self.upload.preprocess = _path  # type: ignore[method-assign]
        self.answer = gr.HTML(words.answer(first), elem_id="answer")
        self.view = gr.Image(
            first.picture(), interactive=False, show_label=False, elem_id="view", buttons=[], format="jpeg"
        )
        with gr.Row(elem_id="below"):
            self.caption = gr.Markdown(words.caption(first), elem_id="caption")
            self.show_map = gr.Checkbox(**self._map(first), label="map", elem_id="map")
            self.show_classes = gr.Checkbox(**self._classes(first), label="classes", elem_id="classes")
        self.claims = gr.Radio(**self._claims(first), elem_id="claims")

    def _add_tokens(self, models: Sequence[str]) -> None:
        first = self.first
        self.model = gr.Dropdown(words.models(models), value=models[0], label="Model", elem_id="model")
        self.headline = gr.Markdown(words.HEADLINE, visible=first.has_tokens)
        self.tokens = gr.Gallery(
            **self._gallery(first),
            show_label=False,
            height="auto",
            allow_preview=False,
            object_fit="contain",
            elem_id="tokens",
            format="jpeg",
            buttons=[],
        )
        with gr.Row():
            self.kind = gr.Radio(
                words.KINDS, value=first.kind, visible=first.has_tokens, label=words.KIND, elem_id="kind"
            )
            self.module = gr.Radio(**self._modules(first), elem_id="module")

    def _connect(self) -> None:
        outputs = [
            *(self.session, self.answer, self.view, self.caption, self.show_map, self.show_classes, self.claims),
            *(self.headline, self.tokens, self.kind, self.module, self.model),
        ]

        def listen(event: Any, handler: Callable[..., Shown], *inputs: Any) -> Any:
            return event(
                handler,
                [self.session, *inputs],
                outputs,
                api_visibility="private",
                show_progress="minimal",
                show_progress_on=[self.view],
            )

        taken = listen(self.upload.upload, self.take_photo, self.upload)
        taken.then(
            lambda: None, None, self.upload, api_visibility="private", show_progress="hidden"
        )  # empties the field
        listen(self.sample.click, self.take_sample, self.sample)
        listen(self.model.change, self.take_model, self.model)  # its `input` comes twice per click
        listen(self.tokens.select, self.choose_token)
        listen(self.claims.input, self.choose_claim, self.claims)
        listen(self.view.select, self.choose_place)
        listen(self.kind.input, self.choose_kind, self.kind)
        listen(self.module.input, self.choose_module, self.module)
        for layer in (self.show_map, self.show_classes):
            listen(layer.input, self.choose_layers, self.show_map, self.show_classes)

    # What a visitor does.

    def take_sample(self, session: Session, index: int) -> Shown:
        return self.take_photo(session, list(self.samples.values())[index])

    @_kindly
    def take_photo(self, session: Session, path: str | None) -> Shown:
        if path is None:
            return {}
        return self._all(Session.begin(open_photo(path), session.model, _model(session.model)))

    @_kindly
    def take_model(self, session: Session, name: str) -> Shown:
        if name == session.model:  # put back after one that could not be loaded
            return {}
        if session.own_photo:
            return self._all(Session.begin(session.photo, name, _model(name)))
        return self._all(self._with_sample(name))

    @_kindly
    def choose_token(self, session: Session, event: gr.SelectData) -> Shown:
        return self._chosen(session, int(event.index))

    @_kindly
    def choose_claim(self, session: Session, token: int) -> Shown:
        return self._chosen(session, token)

    def _chosen(self, session: Session, token: int) -> Shown:
        if not session.show_map:  # the map comes in place of the classes: over their colours it is hard to read
            session.show_map, session.show_classes = True, False
        session.token = token
        return {
            self.show_map: gr.Checkbox(**self._map(session)),
            self.show_classes: gr.Checkbox(**self._classes(session)),
            self.tokens: gr.Gallery(selected_index=token),
            **self._picture(session),
        }

    @_kindly
    def choose_place(self, session: Session, event: gr.SelectData) -> Shown:
        x, y = (at / size for at, size in zip(event.index, session.look.view.size, strict=True))
        session.place = x, y
        return self._picture(session)

    @_kindly
    def choose_kind(self, session: Session, kind: str) -> Shown:
        session.switch(kind, _model(session.model))
        return self._tokens(session)

    @_kindly
    def choose_module(self, session: Session, module: int) -> Shown:
        session.module = module
        return self._tokens(session)

    @_kindly
    def choose_layers(self, session: Session, show_map: bool, show_classes: bool) -> Shown:
        session.show_map, session.show_classes = show_map, show_classes
        return self._picture(session)

    # What changes for it.

    def _all(self, session: Session) -> Shown:
        return {
            self.session: session,
            self.answer: words.answer(session),
            self.show_map: gr.Checkbox(**self._map(session)),
            self.show_classes: gr.Checkbox(**self._classes(session)),
            self.headline: gr.Markdown(visible=session.has_tokens),
            self.kind: gr.Radio(value=session.kind, visible=session.has_tokens),
            self.model: session.model,
            **self._tokens(session),
        }

    def _tokens(self, session: Session) -> Shown:
        return {
            self.tokens: gr.Gallery(**self._gallery(session)),
            self.module: gr.Radio(**self._modules(session)),
            **self._picture(session),
        }

    def _picture(self, session: Session) -> Shown:
        return {
            self.view: _of_its_own(session.picture()),
            self.caption: words.caption(session),
            self.claims: gr.Radio(**self._claims(session)),
        }

    # How a component shows a session.

    def _map(self, session: Session) -> dict[str, Any]:
        return dict(value=session.show_map, visible=session.has_tokens)

    def _classes(self, session: Session) -> dict[str, Any]:
        return dict(value=session.show_classes, visible=session.look.answer.labels is not None)

    def _gallery(self, session: Session) -> dict[str, Any]:
        width, height = session.look.view.size
        return dict(
            value=[(_of_its_own(picture), str(i)) for i, picture in enumerate(session.thumbnails(), start=1)],
            selected_index=session.token if session.has_tokens else None,
            columns=COLUMNS_IF_WIDE if width > WIDE * height else COLUMNS,
            visible=session.has_tokens,
        )

    def _modules(self, session: Session) -> dict[str, Any]:
        headline, choices = words.modules(session, _model(session.model))
        return dict(choices=choices, label=headline, value=session.module, visible=len(choices) > 1)

    def _claims(self, session: Session) -> dict[str, Any]:
        """The tokens that claim the clicked place; the chosen one is marked if it is among them."""
        claims = session.claims()
        return dict(
            choices=[(f"token {token + 1}: {100 * share:.0f} %", token) for token, share in claims],
            value=session.token if session.token in dict(claims) else None,
            label=words.claimed(session) if claims else words.INVITATION,
            visible=session.has_tokens,
        )


def serve(
    models: Sequence[str] | None = None, host: str | None = None, port: int | None = None, open_browser: bool = False
) -> None:
    """Show the page until it is interrupted; gradio chooses host and port if they are not given."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    Page(models or shipped_models()).blocks.launch(
        inbrowser=open_browser,
        server_name=host,
        server_port=port,
        theme=theme,
        css_paths=CSS,
        max_file_size=f"{LIMIT_MEGABYTES}mb",
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        share=False,
    )
