"""The page of `vt-timm explore`: a server, a browser, what a visitor does and sees, and what to give the page."""

import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

import vt_timm

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
READY = "#upload:not(:has(img)) input[type=file]"  # the field keeps a photo, with a hidden input, until it is answered
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@contextmanager
def served(*models):
    """The address of the page, served by `vt-timm explore` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vt_timm", "explore", "--port", str(port), "--models", *models]
    with started(command, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def started(command, url, **options):
    """The address of a page that a command serves, from the moment at which it says that it is ready."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, **options)
    try:
        for line in server.stdout:
            if line.decode().startswith("ready:"):
                break
        assert server.poll() is None, "the server has ended"
        assert url in line.decode()
        yield url
    finally:
        server.terminate()
        server.wait()


@contextmanager
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


def open_page(page, address):
    """Go to the page and wait until all of it is there: gradio loads the code of some of its parts late."""
    page.goto(address)
    page.wait_for_selector(".stage[data-shown]")  # the sample photo
    page.wait_for_selector("#samples [data-listens]")
    page.wait_for_selector("#model input")
    page.wait_for_selector(READY, state="attached")


def write_segmenter(folder, names):
    torch.manual_seed(1)  # these random weights find all three classes on a portrait
    model = vt_timm.create_segmenter(
        "vt_fpn", "vt_resnet_micro", len(names), class_names=names, short_side=64, token_dim=64, num_heads=4
    )
    model.save_pretrained(folder)
    return folder


def picture(path, colour=(200, 40, 40), size=(120, 90)):
    pixels = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    Image.fromarray((pixels + np.array(colour)).clip(0, 255).astype(np.uint8)).save(path)
    return path


def upload(page, path):
    """Give the page a photo as a visitor does, once the field is empty, which it is again when the photo was taken."""
    page.wait_for_selector(READY, state="attached")
    page.set_input_files(READY, str(path))


def drop(page, path):
    """Drag a photo onto the field."""
    dragged = page.evaluate_handle(
        """([bytes, name]) => {
            const dragged = new DataTransfer();
            dragged.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            return dragged;
        }""",
        [list(path.read_bytes()), path.name],
    )
    page.dispatch_event("#upload button[aria-dropeffect]", "drop", {"dataTransfer": dragged})


def wait_for_text(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
    )


def wait_for(page, selector, number):
    page.wait_for_function(
        "([selector, number]) => document.querySelectorAll(selector).length === number", arg=[selector, number]
    )


def source(page):
    """The address of the photo, which is the photo itself."""
    return page.locator(".photo").get_attribute("src")


def photo(page):
    """The photo itself, without layers."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source(page).partition(",")[2])))).astype(float)


def shown(page, after=None):
    """The photo with its layers as the browser paints them; with `after`, a photo, that of the one after it."""
    page.wait_for_function(
        "old => document.querySelector('.stage[data-shown]') && document.querySelector('.photo').src !== old", arg=after
    )
    picture = page.locator(".layers").screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(float)


def uploaded(page, path):
    """The large picture of a photo that was just given."""
    old = source(page)
    upload(page, path)
    return shown(page, after=old)


def choose_model(page, number):
    page.locator("#model input").click()
    page.locator("[role=option]").nth(number).click()


def point(page, x, y):
    """Where on the screen a place of the photo is, given in shares of its width and height."""
    frame = box(page, ".layers")
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


def marked(page):
    """The numbers of the tokens whose map is shown."""
    return [int(n) + 1 for n in attributes(page, "#tokens .set:not([hidden]) [aria-pressed=true]", "data-token")]


def framed(page):
    """The numbers of the tokens that are framed since they claim the place."""
    return {int(n) + 1 for n in attributes(page, "#tokens .set:not([hidden]) .claims", "data-token")}


def attributes(page, selector, name):
    return page.eval_on_selector_all(selector, "(all, name) => all.map(one => one.getAttribute(name))", name)


def claims(page):
    """(token, percent) as listed for the place."""
    return [(int(a), int(b)) for a, b in re.findall(r"(\d+) · (\d+) %", page.locator("#claims").inner_text())]


def box(page, selector):
    return page.locator(selector).first.bounding_box()
