"""A page to explore a photo: what the model says, where its tokens look, and which tokens claim a place.

    vt-timm explore                                         # the shipped models, on this machine only
    vt-timm explore --models vt_resnet18 RUN/best           # also a segmenter

`hub/space/` is the same page as a Space of the Hugging Face Hub. Needs gradio and matplotlib. Visitors share
nothing. An upload is a temporary file on the server, deleted one to two hours after it was written.
"""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from ..errors import CommandError, UserError
from ..pipelines.pipeline import Pipeline
from ..pipelines.sources import load
from ..weights.published import published_segmenters
from . import words
from .samples import Sample, sample_photos
from .session import Session, open_photo
from .stage import introduction, sample_buttons, stage

LIMIT_MEGABYTES = 100
KEEP_SECONDS = 3600
HERE = Path(__file__).parent

Shown = dict[Any, Any]  # what changes on the page, by component


def _path(payload: ImageData | None) -> str | None:
    """Hand over an upload unread: gradio would open it, and answer a broken file with a traceback."""
    return payload.path if payload else None


@cache
def _model(name: str) -> Pipeline:
    return load(name, "cpu")


def _kindly(handler: Callable[..., Shown]) -> Callable[..., Shown]:
    """Make one message of an error, and leave the page as it was."""

    @wraps(handler)
    def handle(page: "Page", session: Session, *arguments: Any) -> Shown:
        try:
            return {page.session: session, **handler(page, session, *arguments)}
        except UserError as error:
            gr.Warning(escape(str(error)), title=words.FAILED)
            return {page.session: session, page.model: session.model, page.upload: None}

    return handle


def shipped_models() -> list[str]:
    """Return what the page offers from the start: the classifiers and the segmenters that ship."""
    return ["vt_resnet18", "vt_resnet_micro", *published_segmenters()]


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
        self.models = list(models)
        self.samples = sample_photos()
        self.first = self._with_sample(models[0])
        with gr.Blocks(title="Visual tokens", analytics_enabled=False, delete_cache=(KEEP_SECONDS,) * 2) as self.blocks:
            self.session = gr.State(self.first)
            gr.Navbar(visible=False)
            gr.HTML(introduction(), apply_default_css=False, elem_id="intro")
            with gr.Row(elem_id="photos"):
                self.sample = gr.HTML(
                    sample_buttons(self.samples, self.first.sample),
                    js_on_load=(
                        "element.addEventListener('click', ({target}) => {"
                        "const button = target.closest('button');"
                        "if (button) trigger('click', {index: Number(button.dataset.index)}); });"
                        "element.dataset.listens = '';"
                    ),
                    apply_default_css=False,
                    elem_id="samples",
                )
                self.upload = gr.Image(
                    sources=["upload"], show_label=False, height=64, placeholder=words.UPLOAD, elem_id="upload",
                    buttons=[],
                )  # fmt: skip
                self.upload.preprocess = _path  # type: ignore[method-assign]
                self.model = gr.Dropdown(
                    words.models(models), value=models[0], label="Model", container=False, elem_id="model"
                )
            self.stage = gr.HTML(
                stage(self.first, _model(models[0])),
                js_on_load=(HERE / "explore.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="stage",
            )
            self._connect()
        with self.blocks.route("README", words.README):
            gr.Navbar(visible=False)
            gr.Markdown(words.about())

    def _connect(self) -> None:
        def listen(event: Any, handler: Callable[..., Shown], *inputs: Any) -> None:
            event(
                handler,
                [self.session, *inputs],
                [self.session, self.stage, self.model, self.upload],
                api_visibility="private",
                show_progress="minimal",  # explore.css makes "looking" of it
                show_progress_on=[self.stage],
            )

        listen(self.upload.upload, self.take_photo, self.upload)
        listen(self.sample.click, self.take_sample)
        listen(self.model.change, self.take_model, self.model)  # its `input` comes twice per click

    # What a visitor does.

    @_kindly
    def take_sample(self, session: Session, event: gr.EventData) -> Shown:
        sample = self.samples[event.index]
        name = self._suiting(session.model, sample)
        return self._shown(Session.begin(open_photo(str(sample.path)), name, _model(name), sample))

    @_kindly
    def take_photo(self, session: Session, path: str | None) -> Shown:
        if path is None:
            return {}
        return self._shown(Session.begin(open_photo(path), session.model, _model(session.model)))

    @_kindly
    def take_model(self, session: Session, name: str) -> Shown:
        if name == session.model:  # put back after one that could not be loaded, or chosen with a sample
            return {}
        if session.sample is None:
            return self._shown(Session.begin(session.photo, name, _model(name)))
        return self._shown(self._with_sample(name, session.sample))

    # What changes for it.

    def _shown(self, session: Session) -> Shown:
        return {
            self.session: session,
            self.stage: stage(session, _model(session.model)),
            self.model: session.model,
            self.upload: None,  # with the answer: emptied after it, a photo that was given in between would be lost
        }

    def _with_sample(self, name: str, *preferred: Sample) -> Session:
        """Return a model's look at the first sample photo that suits it, one of the preferred if it can be."""
        model, candidates = _model(name), [*preferred, *self.samples]
        sample = next((one for one in candidates if one.suits == model.sample), self.samples[0])
        return Session.begin(open_photo(str(sample.path)), name, model, sample)

    def _suiting(self, name: str, sample: Sample) -> str:
        """Return the model that is chosen if it suits the sample, else the first on the list that does."""
        for candidate in (name, *self.models):
            try:
                if _model(candidate).sample == sample.suits:
                    return candidate
            except UserError:  # it says so to those who choose it
                continue
        return name


def serve(
    models: Sequence[str] | None = None, host: str | None = None, port: int | None = None, open_browser: bool = False
) -> None:
    """Show the page until it is interrupted, and say when it is ready; gradio chooses host and port if not given."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    blocks = Page(models or shipped_models()).blocks
    _, url, _ = blocks.launch(
        inbrowser=open_browser,
        server_name=f"[{host}]" if host and ":" in host else host,  # gradio makes an address for browsers of it
        server_port=port,
        theme=theme,
        css_paths=HERE / "explore.css",
        max_file_size=f"{LIMIT_MEGABYTES}mb",
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        share=False,
        prevent_thread_lock=True,
    )
    print(f"ready: {url}  (Ctrl-C ends it)", flush=True)
    blocks.block_thread()
