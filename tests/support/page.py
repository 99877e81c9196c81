"""The page of `vt-timm explore`: a server, a browser, what a visitor does and sees, and what to give the page."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import vt_timm

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
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
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        assert url in server.stdout.readline().decode()
        for _ in range(240):
            assert server.poll() is None, server.stderr.read().decode()
            try:
                urllib.request.urlopen(url).close()
                break
            except OSError:
                time.sleep(0.5)
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


def write_segmenter(folder, names):
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
    """Give the page a photo as a visitor does; the field is empty again when the photo was taken."""
    page.set_input_files("#upload input[type=file]", str(path))


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
    return page.locator("#view img").get_attribute("src")


def shown(page, after=None):
    """The large picture as an array; with `after`, an address, the picture that comes in place of that one."""
    page.wait_for_function(
        "old => ![null, undefined, old].includes(document.querySelector('#view img')?.src)", arg=after
    )
    with urllib.request.urlopen(source(page)) as response:
        return np.asarray(Image.open(io.BytesIO(response.read())).convert("RGB")).astype(float)


def uploaded(page, path):
    """The large picture of a photo that was just given; again, as a person would, if the field was being emptied."""
    from playwright.sync_api import TimeoutError  # not everyone who runs the tests has it

    old = source(page)
    for _ in range(2):
        upload(page, path)
        try:
            page.wait_for_function("old => document.querySelector('#view img')?.src !== old", arg=old, timeout=15_000)
            break
        except TimeoutError:
            page.wait_for_selector("#upload input[type=file]", state="attached")
    return shown(page, after=old)


def choose_model(page, number):
    page.locator("#model input").click()
    page.locator("[role=option]").nth(number).click()


def click_a_place(page):
    """Click the middle of the photo; again, as a person would, if the picture was just being exchanged."""
    for _ in range(20):
        page.locator("#view img").click()
        for _ in range(10):
            if "%" in page.locator("#claims").inner_text():
                return
            page.wait_for_timeout(300)
    raise AssertionError("no click on the photo was answered")


def marked(page):
    """The numbers of the tokens that are marked in the gallery."""
    return page.locator("#tokens .selected").all_inner_texts()


def claims(page):
    """(token, percent) as listed for the clicked place."""
    return [(a, int(b)) for a, b in re.findall(r"token (\d+): (\d+) %", page.locator("#claims").inner_text())]


def box(page, selector):
    return page.locator(selector).first.bounding_box()
