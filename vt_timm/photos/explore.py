"""A page to explore a photo: what the model says, where its tokens look, and which tokens claim a place.

    vt-timm explore                                         # the shipped models, on this machine only
    vt-timm explore --models vt_resnet18 RUN/best           # also a segmenter

`hub/space/` is the same page as a Space of the Hugging Face Hub. Needs gradio and matplotlib. A visitor's photo and
maps live in the visitor's session and nowhere else; uploaded files are deleted after an hour.
"""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from ..errors import CommandError, UserError
from ..images import SAMPLES, ImageError, sample_photo
from ..weights.published import published_segmenters
from . import words
from .models import PhotoModel, load
from .session import KINDS, Session, open_photo

__all__ = ["Page", "serve"]

LIMIT_MEGABYTES = 100
KEEP_SECONDS = 3600
COLUMNS, COLUMNS_IF_WIDE, WIDE = 4, 2, 2.0  # of the gallery, and how wide a photo is that gets fewer
CSS = Path(__file__).with_name("explore.css")

Shown = dict[Any, Any]  # what changes on the page, by component


def _path(payload: ImageData | None) -> str | None:
    """An upload handed over unread: gradio would open it, and answer a broken file with a traceback."""
    return payload.path if payload else None


@cache
def _model(name: str) -> PhotoModel:
    return load(name, "cpu")


def _kindly(handler: Callable[..., Shown]) -> Callable[..., Shown]:
    """What goes wrong is one message, and the page stays as it was."""

    @wraps(handler)
    def handle(page: "Page", session: Session | None, *arguments: Any) -> Shown:
        try:
            return {page.session: session, **handler(page, session, *arguments)}
        except UserError as error:
            gr.Warning(escape(str(error)), title="That did not work")
            return page.unchanged(session)

    return handle


def shipped_models() -> list[str]:
    """What the page offers from the start: the classifiers and the segmenters that ship."""
    return ["vt_resnet18", "vt_resnet_micro", *published_segmenters()]


def sample_photos() -> list[str]:
    """The sample photos that are there: each comes with a library, which may not be installed."""
    found = []
    for name in SAMPLES:
        try:
            found.append(str(sample_photo(name)))
        except ImageError:
            continue
    return found


class Page:
    """The components of the page, and what happens when a visitor uses one.

    Args:
        models: to choose from: names of timm's with weights, local-dir:FOLDER, hf-hub:ORG/NAME, segmenters' folders, or
            files of `vt-timm export`.

    Raises:
        CommandError: if there is none, or the first cannot be loaded.
    """

    def __init__(self, models: Sequence[str]) -> None:
        if not models:
            raise CommandError("there is no model to explore")
        _model(models[0])
        self.samples = sample_photos()
        with gr.Blocks(title="Visual tokens", analytics_enabled=False, delete_cache=(KEEP_SECONDS,) * 2) as self.blocks:
            self.session = gr.State(None)
            gr.Markdown(words.INTRODUCTION, elem_id="intro")
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=3, min_width=320):
                    self._add_photo()
                with gr.Column(scale=2, min_width=320):
                    self._add_tokens(models)
            self._connect()

    def _add_photo(self) -> None:
        with gr.Row(elem_id="photos"):
            self.sample = gr.Dataset(
                components=[gr.Image(visible=False)],
                samples=[[path] for path in self.samples],
                type="index",
                show_label=False,
                elem_id="samples",
                visible=bool(self.samples),
            )
            self.upload = gr.Image(
                sources=["upload"], show_label=False, height=78, placeholder=words.UPLOAD, elem_id="upload", buttons=[]
            )
            self.upload.preprocess = _path  # type: ignore[method-assign]
        self.answer = gr.HTML(elem_id="answer")
        self.view = gr.Image(interactive=False, show_label=False, elem_id="view", buttons=[], format="jpeg")
        with gr.Row(elem_id="below"):
            self.caption = gr.Markdown(elem_id="caption")
            self.show_map = gr.Checkbox(True, label="map", elem_id="map")
            self.show_classes = gr.Checkbox(True, label="classes", elem_id="classes", visible=False)
        self.claims = gr.Radio([], label=words.INVITATION, elem_id="claims")

    def _add_tokens(self, models: Sequence[str]) -> None:
        self.model = gr.Dropdown(words.models(models), value=models[0], label="Model", elem_id="model")
        self.headline = gr.Markdown("### The tokens: click one to see it large")
        self.tokens = gr.Gallery(
            show_label=False,
            columns=COLUMNS,
            height="auto",
            allow_preview=False,
            object_fit="contain",
            elem_id="tokens",
            format="jpeg",
            buttons=[],
        )
        with gr.Row():
            self.kind = gr.Radio(words.MAPS, value=KINDS[0], label="The map of a token shows", elem_id="kind")
            self.module = gr.Radio([], label="Tokens made at", elem_id="module", visible=False)

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

        layers = self.show_map, self.show_classes
        listen(self.blocks.load, self.begin, self.model)
        taken = listen(self.upload.upload, self.take_photo, self.upload, self.model)
        taken.then(lambda: None, None, self.upload, api_visibility="private", show_progress="hidden")  # for the next
        listen(self.sample.click, self.take_sample, self.sample, self.model)
        listen(self.model.input, self.take_model, self.model)
        listen(self.tokens.select, self.choose_token, self.show_classes)
        listen(self.claims.input, self.choose_claim, self.claims, self.show_classes)
        listen(self.view.select, self.choose_place, *layers)
        listen(self.kind.input, self.choose_kind, self.kind, *layers)
        listen(self.module.input, self.choose_module, self.module, *layers)
        for layer in layers:
            listen(layer.input, self.draw, *layers)

    def begin(self, session: Session | None, name: str) -> Shown:
        """A visitor comes: a sample photo is there from the start."""
        return self.take_sample(session, 0, name) if self.samples else {self.answer: words.NO_SAMPLE}

    @_kindly
    def take_sample(self, _: Session | None, index: int, name: str) -> Shown:
        return self._begun(open_photo(self.samples[index]), name)

    @_kindly
    def take_photo(self, _: Session | None, path: str | None, name: str) -> Shown:
        return {} if path is None else self._begun(open_photo(path), name)

    @_kindly
    def take_model(self, session: Session | None, name: str) -> Shown:
        return {} if session is None else self._begun(session.photo, name)

    def _begun(self, photo: Image.Image, name: str) -> Shown:
        model = _model(name)
        session = Session.begin(photo, name, model)
        is_segmenter, shown = session.look.answer.labels is not None, session.has_tokens
        show_map = not is_segmenter
        return {
            self.session: session,
            self.answer: words.answer(session),
            self.show_map: gr.Checkbox(show_map, visible=shown),
            self.show_classes: gr.Checkbox(True, visible=is_segmenter),
            self.kind: gr.Radio(value=session.kind, visible=shown),
            self.model: name,
            self.headline: gr.Markdown(visible=shown),
            **self._tokens(session),
            **self._picture(session, show_map, True),
            **self._claims(session),
        }

    def _tokens(self, session: Session) -> Shown:
        """The gallery and the choice of its set."""
        number, shown = len(session.look.maps), session.has_tokens
        headline, choices = words.steps(session, _model(session.model))
        pictures = [(picture, str(i)) for i, picture in enumerate(session.thumbnails(), start=1)]
        columns = COLUMNS_IF_WIDE if session.look.view.width > WIDE * session.look.view.height else COLUMNS
        chosen = session.token if shown else None
        return {
            self.tokens: gr.Gallery(pictures, selected_index=chosen, columns=columns, visible=shown),
            self.module: gr.Radio(choices, label=headline, value=session.module, visible=number > 1),
        }

    def _picture(self, session: Session, show_map: bool, show_classes: bool) -> Shown:
        return {
            self.view: session.picture(show_map, show_classes),
            self.caption: words.caption(session, show_map),
        }

    def _claims(self, session: Session) -> Shown:
        """The tokens that claim the clicked place; the chosen one is marked if it is among them."""
        claims = session.claims()
        if not claims:
            return {self.claims: gr.Radio([], label=words.INVITATION, value=None, visible=session.has_tokens)}
        choices = [(f"token {token + 1}: {100 * share:.0f} %", token) for token, share in claims]
        chosen = session.token if session.token in dict(claims) else None
        return {self.claims: gr.Radio(choices, label=words.claimed(session), value=chosen, visible=True)}

    @_kindly
    def choose_token(self, session: Session | None, show_classes: bool, event: gr.SelectData) -> Shown:
        return {} if session is None else self._chosen(session, int(event.index), show_classes)

    @_kindly
    def choose_claim(self, session: Session | None, token: int, show_classes: bool) -> Shown:
        return {} if session is None else self._chosen(session, token, show_classes)

    def _chosen(self, session: Session, token: int, show_classes: bool) -> Shown:
        session.token = token
        return {
            self.show_map: True,
            self.tokens: gr.Gallery(selected_index=token),
            **self._picture(session, True, show_classes),
            **self._claims(session),
        }

    @_kindly
    def choose_place(self, session: Session | None, show_map: bool, show_classes: bool, event: gr.SelectData) -> Shown:
        if session is None:
            return {}
        session.place = tuple(at / size for at, size in zip(event.index, session.look.view.size, strict=True))
        return {**self._picture(session, show_map, show_classes), **self._claims(session)}

    @_kindly
    def choose_kind(self, session: Session | None, kind: str, show_map: bool, show_classes: bool) -> Shown:
        if session is None:
            return {}
        session.switch(kind, _model(session.model))
        return self._switched(session, show_map, show_classes)

    @_kindly
    def choose_module(self, session: Session | None, module: int, show_map: bool, show_classes: bool) -> Shown:
        if session is None:
            return {}
        session.module = module
        return self._switched(session, show_map, show_classes)

    def _switched(self, session: Session, show_map: bool, show_classes: bool) -> Shown:
        return {
            **self._tokens(session),
            **self._picture(session, show_map, show_classes),
            **self._claims(session),
        }

    @_kindly
    def draw(self, session: Session | None, show_map: bool, show_classes: bool) -> Shown:
        return {} if session is None else self._picture(session, show_map, show_classes)

    def unchanged(self, session: Session | None) -> Shown:
        """The page as it was: a choice that failed goes back to what is shown."""
        back: Shown = {self.session: session}
        if session is not None:
            back |= {self.kind: session.kind, self.model: session.model}
        return back


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
