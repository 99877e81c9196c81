"""The page in a real browser: Debian's Chromium, headless, against a server on the loopback address."""

import re
from importlib import util

import numpy as np
import pytest
from PIL import Image
from timm.data import resolve_data_config

from tests.support.page import (
    box,
    choose_model,
    chromium,
    claims,
    click_a_place,
    drop,
    marked,
    needs_browser,
    picture,
    served,
    shown,
    source,
    upload,
    uploaded,
    wait_for,
    wait_for_text,
    write_segmenter,
)
from vt_timm.cli import main
from vt_timm.images import read_image, sample_photo
from vt_timm.pipelines.sources import load

SEGMENTER, GONE, ONNX = 1, 2, 3  # in the list of models
NAMES = ["sky", "wall", "dog"]
SECONDS = 30_000  # milliseconds that playwright waits; not a test of speed


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return write_segmenter(tmp_path_factory.mktemp("explore") / "segmenter", NAMES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file, as a list; empty where there is nothing to write one with."""
    if not (util.find_spec("onnxscript") and util.find_spec("onnxruntime")):
        return []
    path = tmp_path_factory.mktemp("explore") / "model.onnx"
    assert main(["export", "vt_resnet_micro", "-o", str(path)]) == 0
    return [str(path)]


@pytest.fixture(scope="module")
def address(segmenter, exported):
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    with served("vt_resnet_micro", str(segmenter), str(segmenter.with_name("gone.onnx")), *exported) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


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
        page.wait_for_selector("#tokens img")  # of the sample photo
        page.wait_for_selector("#view img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not elsewhere


@needs_browser
def test_it_starts_with_a_sample_photo_and_the_answer_on_top(visit):
    page = visit(height=800)
    assert "%" in page.locator("#answer").inner_text()
    assert page.locator("#tokens img").count() == 16 and marked(page) == ["1"]
    assert "sums a photo up in a few tokens" in page.locator("#intro").inner_text()
    answer, view, tokens = (box(page, selector) for selector in ("#answer", "#view img", "#tokens"))
    assert answer["y"] + answer["height"] <= view["y"] and view["y"] + view["height"] <= 800
    assert tokens["y"] + tokens["height"] <= 800 and box(page, "#samples img")["y"] < answer["y"]
    assert page.get_by_text("Error", exact=True).count() == 0


@needs_browser
def test_another_sample_photo_is_one_click_away(visit):
    page = visit()
    old = source(page)
    before = shown(page)
    page.locator("#samples button").nth(1).click()
    assert np.abs(shown(page, after=old) - before).mean() > 10


@needs_browser
def test_a_model_comes_with_the_sample_photo_that_suits_it(visit, tmp_path):
    page = visit()
    choose_model(page, SEGMENTER)
    wait_for(page, "#tokens img", 8)
    width, height = Image.open(sample_photo("person")).size
    assert np.isclose(shown(page).shape[1] / shown(page).shape[0], width / height, atol=0.01)


@needs_browser
def test_a_choice_of_a_model_is_asked_once_by_mouse_and_by_keyboard(visit):
    page, asked = visit(), []
    page.on("request", lambda request: "/queue/join" in request.url and asked.append(request.url))
    before = source(page)
    choose_model(page, SEGMENTER)
    shown(page, after=before)
    page.wait_for_timeout(1000)
    assert len(asked) == 1
    before = source(page)
    page.locator("#model input").click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    shown(page, after=before)
    assert len(asked) == 2


@needs_browser
def test_equal_pictures_of_two_visitors_are_two_files(visit):
    first, second = visit(), visit()
    addresses = set()
    for page in (first, second):
        old = source(page)
        page.locator("#tokens button").nth(4).click()
        shown(page, after=old)
        addresses.add(source(page))
    assert len(addresses) == 2


@needs_browser
def test_a_photo_is_dropped_and_then_a_token_clicked(visit, tmp_path):
    page = visit()
    old = source(page)
    drop(page, picture(tmp_path / "photo.png"))
    first = shown(page, after=old)
    old = source(page)
    page.locator("#tokens button").nth(4).click()
    wait_for_text(page, "#caption", "Token 5")
    assert np.abs(shown(page, after=old) - first).max() > 10 and marked(page) == ["5"]
    old = source(page)
    page.locator("#map input").click()  # the map goes, the photo stays
    plain = shown(page, after=old)
    assert plain[..., 0].mean() > plain[..., 2].mean() + 80


@needs_browser
def test_from_a_place_to_the_tokens_that_claim_it_and_back(visit):
    page = visit()
    assert "Click a place" in page.locator("#claims").inner_text()
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('#tokens img')];"
        " return all.length >= 16 && all.every(image => image.complete && image.naturalHeight) }"
    )
    gallery = box(page, "#tokens")
    click_a_place(page)
    listed = claims(page)
    shares = [share for _, share in listed]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 102
    assert box(page, "#tokens") == gallery  # nothing was pushed away
    number = next(token for token, _ in listed if token != "1")
    page.locator("#claims label").filter(has_text=f"token {number}:").click()
    wait_for_text(page, "#caption", f"Token {number}:")
    page.wait_for_function("n => document.querySelector('#tokens .selected')?.innerText === n", arg=number)
    page.locator("#tokens button").nth(int(listed[0][0]) - 1).click()  # and from the gallery to the list
    page.wait_for_function("document.querySelector('#claims input').checked")
    assert claims(page) == listed


@needs_browser
def test_token_and_place_stay_chosen_when_something_else_is_shown(visit, tmp_path):
    page = visit()
    uploaded(page, picture(tmp_path / "photo.png"))
    page.locator("#tokens button").nth(8).click()
    wait_for_text(page, "#caption", "Token 9")
    click_a_place(page)
    for selector in ("#module label >> nth=1", "#kind label >> nth=1"):
        old, before = source(page), shown(page)
        page.locator(selector).click()
        assert np.abs(shown(page, after=old) - before).max() > 10
        assert marked(page) == ["9"] and claims(page) and "Token 9" in page.locator("#caption").inner_text()
    wait_for_text(page, "#claims", "uses most")
    assert not page.locator("#module").is_visible()  # the last module of a classifier has no projector


@needs_browser
def test_the_classes_of_a_segmenter_are_a_layer(visit, tmp_path):
    page = visit()
    photo = uploaded(page, picture(tmp_path / "photo.png"))
    old = source(page)
    choose_model(page, SEGMENTER)
    painted = shown(page, after=old)
    wait_for(page, "#module label", 4)  # the levels of VT-FPN
    wait_for(page, "#tokens img", 8)
    assert any(name in page.locator("#answer").inner_text() for name in NAMES)
    assert page.locator("#answer i").count() >= 1  # each class with its colour
    old = source(page)
    page.locator("#classes input").click()
    plain = shown(page, after=old)
    assert plain[..., 0].mean() > plain[..., 2].mean() + 80 and np.abs(plain - painted).mean() > 10
    assert photo.shape[:2] == (480, 480) and plain.shape[1] > plain.shape[0]  # only the classifier crops
    click_a_place(page)
    assert any(f"({name})" in page.locator("#claims").inner_text() for name in NAMES)
    page.locator("#classes input").click()
    wait_for_text(page, "#caption", "The colours are what the model sees")
    page.locator("#tokens button").nth(2).click()  # brings its map, in place of the classes
    wait_for_text(page, "#caption", "Token 3")
    assert page.locator("#map input").is_checked() and not page.locator("#classes input").is_checked()


@needs_browser
def test_a_file_without_attention_is_answered_and_the_page_says_so(visit, exported):
    if not exported:
        pytest.skip("needs onnx: pip install '.[onnx]'")
    page = visit()
    choose_model(page, ONNX)
    wait_for_text(page, "#caption", "without showing tokens")
    assert "%" in page.locator("#answer").inner_text()
    for selector in ("#tokens", "#claims", "#kind", "#module", "#map"):
        assert not page.locator(selector).is_visible()
    choose_model(page, 0)
    page.wait_for_selector("#tokens img")
    assert page.locator("#claims").is_visible() and page.locator("#kind").is_visible()


@needs_browser
def test_a_model_that_cannot_be_loaded_is_one_message_and_the_page_stays(visit):
    page = visit()
    before, name = source(page), page.locator("#model input").input_value()
    choose_model(page, GONE)
    page.get_by_test_id("toast-body").wait_for()
    page.wait_for_function("name => document.querySelector('#model input').value === name", arg=name)
    assert page.get_by_test_id("toast-body").count() == 1 and page.get_by_text("Error", exact=True).count() == 0
    assert source(page) == before


@needs_browser
@pytest.mark.parametrize("kind", ["text", "cut", "empty"])
def test_a_file_that_is_no_picture_is_one_friendly_message_and_the_page_stays(kind, visit, tmp_path):
    whole = picture(tmp_path / "whole.jpg").read_bytes()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes({"text": b"not a photo\n" * 50, "cut": whole[: len(whole) // 3], "empty": b""}[kind])
    page = visit()
    before = source(page)
    upload(page, bad)
    page.get_by_text("This file is not a picture that can be read").wait_for()
    assert page.get_by_test_id("toast-body").count() == 1 and page.get_by_text("Error", exact=True).count() == 0
    assert source(page) == before
    page.wait_for_selector("#upload input[type=file]", state="attached")
    uploaded(page, tmp_path / "whole.jpg")


@needs_browser
def test_a_wide_photo_is_said_to_be_cropped(visit, tmp_path):
    page = visit()
    uploaded(page, picture(tmp_path / "wide.png", size=(400, 100)))
    config = resolve_data_config({}, model=load("vt_resnet_micro").module, use_test_size=True)
    kept = round(100 * config["crop_pct"] ** 2 / 4)
    text = page.locator("#answer").inner_text()
    said = int(re.search(r"only at the middle of the photo, (\d+) % of it", text).group(1))
    assert abs(said - kept) <= 1
    choose_model(page, SEGMENTER)
    wait_for_text(page, "#answer", "3 things")
    assert "middle" not in page.locator("#answer").inner_text()


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
    uploaded(page, path)
    assert "%" in page.locator("#answer").inner_text()


@needs_browser
def test_too_many_pixels_are_refused_kindly(visit, tmp_path):
    Image.new("1", (16_000, 12_000)).save(tmp_path / "huge.png")
    page = visit()
    upload(page, tmp_path / "huge.png")
    page.get_by_text("This picture has too many pixels").wait_for()


@needs_browser
def test_a_file_that_is_too_large_is_one_message_and_the_page_goes_on(visit, tmp_path):
    with open(tmp_path / "large.png", "wb") as large:
        large.truncate(110_000_000)
    page = visit()
    upload(page, tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size").wait_for()
    assert page.get_by_test_id("toast-body").count() == 1
    assert not page.locator("#upload").get_by_text("Error", exact=True).is_visible()
    uploaded(page, picture(tmp_path / "photo.png"))


@needs_browser
def test_two_visitors_at_once_each_see_their_own(visit, tmp_path):
    red, blue = visit(), visit()
    before = source(red), source(blue)
    upload(red, picture(tmp_path / "red.png", (200, 20, 20)))
    upload(blue, picture(tmp_path / "blue.png", (20, 20, 200)))
    mean_red, mean_blue = (shown(p, after=old).mean(axis=(0, 1)) for p, old in zip((red, blue), before, strict=True))
    assert mean_red[0] > mean_red[2] + 60 and mean_blue[2] > mean_blue[0] + 60
    red.locator("#tokens button").nth(2).click()
    wait_for_text(red, "#caption", "Token 3")
    assert "Token 1" in blue.locator("#caption").inner_text()


@needs_browser
def test_on_a_phone_what_changes_is_in_sight(visit, tmp_path):
    page = visit(width=390, height=844)
    uploaded(page, picture(tmp_path / "photo.png"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("scrollY") == 0
    for selector in ("#answer", "#view img"):  # what an upload brings, without scrolling
        found = box(page, selector)
        assert found["y"] >= 0 and found["y"] + found["height"] <= 844
    last = page.locator("#tokens button").last
    last.scroll_into_view_if_needed()
    last.click()
    wait_for_text(page, "#caption", "Token 16")
    view, thumbnail, badge = box(page, "#view img"), last.bounding_box(), last.locator(".caption-label").bounding_box()
    assert view["y"] >= 0 and view["y"] + view["height"] <= thumbnail["y"]  # the large map above the token that was hit
    assert thumbnail["x"] + thumbnail["width"] <= 390
    assert badge["width"] * badge["height"] < 0.07 * thumbnail["width"] * thumbnail["height"]
