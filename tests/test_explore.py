"""The page in a real browser: Debian's Chromium, headless, against a server on the loopback address."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vt_timm
from vt_timm.images import read_image
from vt_timm.photos.models import load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SPACE = Path(__file__).parents[1] / "hub" / "space"
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
SECONDS = 60_000  # milliseconds that playwright waits; not a test of speed

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore") / "segmenter"
    model = vt_timm.create_segmenter(
        "vt_fpn", "vt_resnet_micro", 3, class_names=["sky", "wall", "dog"], short_side=64, token_dim=64, num_heads=4
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(segmenter):
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = ["vt_resnet_micro", "vt_resnet18", str(segmenter)]
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


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page as a new visitor; nothing may be asked of another machine."""
    elsewhere, contexts = [], []

    def note(request):
        if not request.url.startswith((address, "data:", "blob:", address.replace("http", "ws"))):
            elsewhere.append(request.url)

    def open_page(width=1280, height=900):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(SECONDS)
        page.on("request", note)
        page.goto(address)
        page.wait_for_selector("#upload input[type=file]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not elsewhere


def picture(path, colour=(200, 40, 40), size=(120, 90)):
    pixels = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    Image.fromarray((pixels + np.array(colour)).clip(0, 255).astype(np.uint8)).save(path)
    return path


def upload(page, path):
    page.set_input_files("#upload input[type=file]", str(path))


def wait_for_text(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).innerText.includes(text)", arg=[selector, text]
    )


def click_a_place(page):
    """Click the middle of the photo; again, as a person would, if the picture was just being exchanged."""
    for _ in range(20):
        page.locator("#view img").click()
        for _ in range(10):
            if "%" in page.locator("#claims").inner_text():
                return
            page.wait_for_timeout(300)
    raise AssertionError("no click on the photo was answered")


def source(page, selector):
    return page.locator(f"{selector} img").first.get_attribute("src")


def shown_after(page, selector, old):
    """The picture that comes in place of an older one."""
    page.wait_for_function(
        "([selector, old]) => document.querySelector(selector + ' img').src !== old", arg=[selector, old]
    )
    return shown(page, selector)


def shown(page, selector):
    """The picture that an element shows, as an array."""
    with urllib.request.urlopen(source(page, selector)) as response:
        return np.asarray(Image.open(io.BytesIO(response.read())).convert("RGB")).astype(float)


@needs_browser
def test_upload_then_a_token_then_a_place(visit, tmp_path):
    page = visit()
    upload(page, picture(tmp_path / "photo.png"))
    page.wait_for_selector("#tokens img")
    assert page.locator("#tokens img").count() == 16
    wait_for_text(page, "#answers", "%")
    first, old = shown(page, "#large"), source(page, "#large")
    page.locator("#tokens button").nth(4).click()
    wait_for_text(page, "#chosen", "Token 5")
    assert np.abs(shown_after(page, "#large", old) - first).max() > 10
    click_a_place(page)
    shares = [int(share) for share in re.findall(r"token \d+: (\d+) %", page.locator("#claims").inner_text())]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 102


@needs_browser
def test_another_module_attention_and_model(visit, tmp_path):
    page = visit()
    upload(page, picture(tmp_path / "photo.png"))
    page.wait_for_selector("#tokens img")
    before, old = shown(page, "#large"), source(page, "#large")
    page.locator("#module label").nth(1).click()
    assert np.abs(shown_after(page, "#large", old) - before).max() > 10
    page.locator("#kind label").nth(1).click()
    page.wait_for_function("document.querySelectorAll('#module label').length === 1")  # only one module has a projector
    page.locator("#model input").click()
    page.locator("[role=option]").last.click()
    page.wait_for_function("document.querySelectorAll('#module label').length === 4")  # the levels of VT-FPN
    page.wait_for_function("document.querySelectorAll('#tokens img').length === 8")
    assert any(name in page.locator("#answers").inner_text() for name in ("sky", "wall", "dog"))
    click_a_place(page)
    assert any(name in page.locator("#claims").inner_text() for name in ("sky", "wall", "dog"))


@needs_browser
@pytest.mark.parametrize("kind", ["text", "cut", "empty"])
def test_a_file_that_is_no_picture_gets_a_friendly_line_and_the_page_goes_on(kind, visit, tmp_path):
    whole = picture(tmp_path / "whole.jpg").read_bytes()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes({"text": b"not a photo\n" * 50, "cut": whole[: len(whole) // 3], "empty": b""}[kind])
    page = visit()
    upload(page, bad)
    page.get_by_text("This file is not a picture that can be read").wait_for()
    page.locator("#upload button[aria-label='Remove Image'], #upload button[aria-label='Clear']").first.click()
    upload(page, tmp_path / "whole.jpg")
    page.wait_for_selector("#tokens img")


@needs_browser
@pytest.mark.parametrize("kind", ["80 megapixels", "16 bits"])
def test_unusual_pictures_are_looked_at(kind, visit, tmp_path):
    path = tmp_path / "photo.png"
    if kind == "16 bits":
        ramp = np.linspace(0, 65535, 90 * 120).reshape(90, 120).astype(np.uint16)
        Image.fromarray(ramp).save(path)
        small = np.asarray(read_image(path)).astype(float)
        assert small[0].mean() < 10 and small[-1].mean() > 245  # and not all white
    else:
        Image.new("RGB", (10_000, 8_000), (90, 120, 30)).save(path)
    page = visit()
    upload(page, path)
    page.wait_for_selector("#tokens img")
    wait_for_text(page, "#answers", "%")


@needs_browser
def test_too_many_pixels_are_refused_kindly(visit, tmp_path):
    Image.new("1", (16_000, 12_000)).save(tmp_path / "huge.png")
    page = visit()
    upload(page, tmp_path / "huge.png")
    page.get_by_text("This picture has too many pixels").wait_for()


@needs_browser
def test_two_visitors_at_once_each_see_their_own(visit, tmp_path):
    red, blue = visit(), visit()
    upload(red, picture(tmp_path / "red.png", (200, 20, 20)))
    upload(blue, picture(tmp_path / "blue.png", (20, 20, 200)))
    for page in (red, blue):
        page.wait_for_selector("#tokens img")
        page.wait_for_selector("#view img")
    mean_red, mean_blue = (shown(page, "#view").mean(axis=(0, 1)) for page in (red, blue))
    assert mean_red[0] > mean_red[2] + 80 and mean_blue[2] > mean_blue[0] + 80
    red.locator("#tokens button").nth(2).click()
    wait_for_text(red, "#chosen", "Token 3")
    assert "Token 1" in blue.locator("#chosen").inner_text()


@needs_browser
def test_it_fits_a_phone(visit, tmp_path):
    page = visit(width=390, height=844)
    upload(page, picture(tmp_path / "photo.png"))
    page.wait_for_selector("#tokens img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator("#tokens button").nth(i).bounding_box() for i in range(16)]
    assert max(box["x"] + box["width"] for box in boxes) <= 390


def test_the_space_starts_this_page():
    front = (SPACE / "README.md").read_text().split("---")[1]
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio" and (SPACE / settings["app_file"]).is_file()
    assert (SPACE / "requirements.txt").read_text().strip() == "vt_timm[explore]"
    compile((SPACE / "app.py").read_text(), "app.py", "exec")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    from vt_timm import cli

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "vt_timm.photos.explore", raising=False)
    assert cli.main(["explore"]) == 2
    assert "pip install 'vt_timm[explore]'" in capsys.readouterr().err


def test_grey_values_of_16_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(read_image(tmp_path / "grey.png")).tolist() == np.full((4, 4, 3), 128).tolist()


def test_a_model_that_keeps_no_attention_is_answered_all_the_same(tmp_path, monkeypatch):
    page = pytest.importorskip("vt_timm.photos.explore", reason="needs gradio: pip install '.[explore]'")
    model = load("vt_resnet_micro")
    model.keeps_attention = False  # as an ONNX file
    monkeypatch.setattr(page, "_model", lambda name: model)
    session, _, shares, tokens, *_ = page.examine(str(picture(tmp_path / "a.png")), "a.onnx", 1, "where tokens look")
    assert session is None and tokens == [] and len(shares) == 5
