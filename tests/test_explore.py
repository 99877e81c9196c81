"""The page in a real browser: Debian's Chromium, headless, against a server on the loopback address."""

import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import resolve_data_config

from tests.support.page import (
    attributes,
    box,
    choose_model,
    chromium,
    claims,
    drop,
    framed,
    marked,
    needs_browser,
    open_page,
    photo,
    picture,
    point,
    served,
    shown,
    source,
    upload,
    uploaded,
    wait_for_text,
    write_segmenter,
)
from vt_timm import record_attention
from vt_timm.images import read_image, sample_photo
from vt_timm.pipelines.sources import load
from vt_timm.weights.published import HUB

SEGMENTER, UNSURE, GONE, WITHOUT_TOKENS = 1, 2, 3, 4  # in the list of models
NAMES = ["background", "hair", "jacket"]
SECONDS = 90_000  # milliseconds that playwright waits; not a test of speed
TOKENS = "#tokens .set:not([hidden]) button"
PORTRAIT = "#samples button:has(img[alt*=astronaut])"
PLACE = 0.4, 0.3
NEAR = 1e-4


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return write_segmenter(tmp_path_factory.mktemp("explore") / "segmenter", NAMES)


@pytest.fixture(scope="module")
def unsure(tmp_path_factory):
    """A classifier that is to say so whenever it is less than certain."""
    folder = tmp_path_factory.mktemp("explore") / "unsure"
    shutil.copytree(HUB / "vt_resnet_micro.muon_imagenette", folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["notes"] = ["unsure_below=1"]
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def without_tokens(tmp_path_factory):
    """Another's classifier, which has no tokens to show."""
    folder = tmp_path_factory.mktemp("explore") / "test_resnet"
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=3), folder, safe_serialization=True)
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def address(segmenter, unsure, without_tokens):
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    gone = str(segmenter.with_name("gone.onnx"))
    with served("vt_resnet_micro", str(segmenter), unsure, gone, without_tokens) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def contexts(browser):
    """The browser on a desktop, and on a phone; each keeps gradio's files, which take longest to come."""
    return [browser.new_context(), browser.new_context(has_touch=True, is_mobile=True)]


@pytest.fixture
def visit(contexts, address):
    """Opens the page as a new visitor; nothing may be asked of another machine."""
    elsewhere, pages = [], []

    def note(request):
        if not request.url.startswith((address, "data:", "blob:", address.replace("http", "ws"))):
            elsewhere.append(request.url)

    def new_page(width=1280, height=900):
        page = contexts[width < 500].new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(SECONDS)
        page.on("request", note)
        open_page(page, address)
        return page

    yield new_page
    for page in pages:
        page.close()
    assert not elsewhere


@pytest.fixture(scope="module")
def temple():
    """The maps of the first photo's last module, (L, H, W), recorded without the page."""
    model = load("vt_resnet_micro")
    photo = read_image(sample_photo("photo"))
    with record_attention(model.module) as maps:
        model.module(model.input(model.view(photo)))
    return min(maps, key=lambda one: one[0, 0].numel())[0]


def shares_at(maps, x, y):
    """The share of each token in all weights at a place, interpolated in plain loops."""
    rows, columns = maps.shape[1:]
    at_y, at_x = min(max(y * rows - 0.5, 0), rows - 1), min(max(x * columns - 0.5, 0), columns - 1)
    weights = []
    for attention in maps.tolist():
        total = 0.0
        for row in range(rows):
            for column in range(columns):
                near = max(0, 1 - abs(row - at_y)) * max(0, 1 - abs(column - at_x))
                total += near * attention[row][column]
        weights.append(total)
    return [weight / sum(weights) for weight in weights]


def asked(page):
    """What the page asks of the server from now on."""
    requests = []
    page.on("request", lambda request: request.url.startswith("data:") or requests.append(request.url))
    return requests


@needs_browser
def test_it_starts_with_an_answer_on_top_and_the_token_that_tells_most(visit, temple):
    page = visit(height=800)
    assert "%" in page.locator("#answer").inner_text()
    assert page.locator(TOKENS).count() == len(temple) == 16
    telling = []
    for token in temple.tolist():  # the definition in plain loops
        bits = 0.0
        for row in range(1, len(token) - 1):
            for column in range(1, len(token[0]) - 1):
                share = token[row][column] / sum(map(sum, token))
                mean = sum(t[row][column] / sum(map(sum, t)) for t in temple.tolist()) / len(temple)
                bits += share * math.log2(share / mean) if share > 0 else 0.0
        telling.append(bits)
    assert marked(page) == [1 + int(np.argmax(telling))] != [1]
    assert page.locator("#caption").inner_text().startswith(f"Token {marked(page)[0]}:")
    answer, view, tokens = (box(page, selector) for selector in ("#answer", ".layers", "#tokens"))
    assert answer["y"] + answer["height"] <= view["y"] and view["y"] + view["height"] <= 800
    assert tokens["y"] + tokens["height"] <= 800 and box(page, "#samples img")["y"] < answer["y"]
    assert page.get_by_text("Error", exact=True).count() == 0


@needs_browser
@pytest.mark.parametrize("size", [(1280, 900), (1280, 2000), (390, 844)])
def test_the_photo_fills_its_column_and_its_place_is_kept_from_the_first_paint(size, visit):
    page = visit(*size)
    frame = box(page, ".layers")
    column = box(page, ".side") if size[0] > 500 else box(page, ".stage")
    assert frame["width"] == pytest.approx(min(column["width"], 0.42 * size[1] if size[0] < 500 else 1e4), abs=1)
    assert size[0] < 500 or frame["height"] > 0.5 * min(size[1], 1000)
    page.evaluate("document.querySelectorAll('.stage img').forEach(one => one.removeAttribute('src'))")
    assert box(page, ".layers") == frame  # as before a picture has come
    for late in ("#upload", "#model"):  # gradio loads their code last
        page.wait_for_selector(late)
        page.evaluate("late => document.querySelector(late).style.display = 'none'", late)
        assert box(page, ".layers") == frame


@needs_browser
def test_six_to_eight_sample_photos_are_one_click_away_each_with_its_author(visit):
    page = visit()
    samples = page.locator("#samples button")
    assert 6 <= samples.count() <= 8
    titles = attributes(page, "#samples button", "title")
    assert all(re.search(r"Photo: .+, (CC BY 2.0|CC0|public domain)$", title) for title in titles)
    for number, title in enumerate(titles):
        if number:
            old = source(page)
            samples.nth(number).click()
            page.wait_for_function("old => document.querySelector('.stage[data-shown] .photo')?.src !== old", arg=old)
        assert [i for i, on in enumerate(attributes(page, "#samples button", "aria-pressed")) if on == "true"] == [
            number
        ]
        author, licence = title.rpartition("Photo: ")[2].rsplit(", ", 1)
        assert page.locator("#credit a").all_inner_texts() == [author, licence]
        assert all(link.startswith("https://") for link in attributes(page, "#credit a", "href"))


@needs_browser
def test_a_portrait_brings_the_segmenter_and_a_temple_the_classifier(visit):
    page = visit()
    name = page.locator("#model input").input_value()
    page.locator(PORTRAIT).click()
    page.wait_for_selector("#legend")
    assert page.locator("#model input").input_value().endswith("segmenter")
    page.locator("#samples button").first.click()
    page.wait_for_selector("#legend", state="detached")
    assert page.locator("#model input").input_value() == name


@needs_browser
def test_a_model_comes_with_a_sample_photo_that_suits_it(visit):
    page = visit()
    old = source(page)
    choose_model(page, SEGMENTER)
    shown(page, after=old)
    assert "Grace Hopper" in page.locator(".photo").get_attribute("alt") or page.locator("#credit").inner_text()
    assert page.locator(TOKENS).count() == 8


@needs_browser
def test_a_choice_of_a_model_is_asked_once_by_mouse_and_by_keyboard(visit):
    page = visit()
    joined = []
    page.on("request", lambda request: "/queue/join" in request.url and joined.append(request.url))
    before = source(page)
    choose_model(page, SEGMENTER)
    shown(page, after=before)
    page.wait_for_timeout(1000)
    assert len(joined) == 1
    before = source(page)
    page.locator("#model input").click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    shown(page, after=before)
    assert len(joined) == 2


@needs_browser
def test_pointing_at_a_place_shows_its_best_token_live_and_asks_nothing_of_the_server(visit, temple):
    page = visit()
    first, before, requests = marked(page), shown(page), asked(page)
    for place in (PLACE, (0.8, 0.75)):
        page.mouse.move(*point(page, *place))
        shares = shares_at(temple, *place)
        fourth = sorted(shares)[-4]
        assert len(marked(page)) == 1 and shares[marked(page)[0] - 1] > max(shares) - NEAR
        assert len(framed(page)) == 4 and all(shares[token - 1] > fourth - NEAR for token in framed(page))
        assert {token for token, _ in claims(page)} == framed(page) and claims(page)[0][0] == marked(page)[0]
        assert all(abs(percent - 100 * shares[token - 1]) < 0.51 for token, percent in claims(page))
    page.mouse.move(5, 5)
    assert marked(page) == first and not framed(page) and not claims(page)
    page.locator(TOKENS).nth(11).hover()
    assert marked(page) == [12]
    page.mouse.move(5, 5)
    assert np.abs(shown(page) - before).max() < 2 and not requests


@needs_browser
def test_a_click_on_a_place_shows_its_best_token_at_once_and_keeps_it(visit, temple):
    page = visit()
    requests, before = asked(page), shown(page)
    gallery = box(page, "#tokens")
    page.mouse.click(*point(page, *PLACE))
    page.mouse.move(5, 5)
    shares = shares_at(temple, *PLACE)
    (best,) = marked(page)
    assert shares[best - 1] > max(shares) - NEAR
    assert len(framed(page)) == 4 and f"Token {best}:" in page.locator("#caption").inner_text()
    assert box(page, "#tokens") == gallery  # nothing was pushed away
    assert np.abs(shown(page) - before).max() > 100  # the ring, and the other map
    listed = claims(page)
    shares = [share for _, share in listed]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 102
    other = listed[1][0]
    page.locator("#claims button").nth(1).click()  # from the list to the token
    page.mouse.move(5, 5)
    assert marked(page) == [other] and claims(page) == listed and not requests


@needs_browser
def test_a_photo_is_dropped_and_then_a_token_clicked(visit, tmp_path):
    page = visit()
    old = source(page)
    drop(page, picture(tmp_path / "photo.png"))
    first = shown(page, after=old)
    number = next(n for n in (4, 5) if marked(page) != [n + 1])
    page.locator(TOKENS).nth(number).click()
    page.mouse.move(5, 5)
    assert f"Token {number + 1}:" in page.locator("#caption").inner_text()
    assert np.abs(shown(page) - first).max() > 10 and marked(page) == [number + 1]
    page.locator("#map input").uncheck()  # the map goes, the photo stays, and no frame says otherwise
    page.mouse.move(5, 5)
    plain = shown(page)
    assert plain[..., 0].mean() > plain[..., 2].mean() + 80 and marked(page) == []


@needs_browser
def test_token_and_place_stay_chosen_when_something_else_is_shown(visit):
    page = visit()
    page.mouse.click(*point(page, *PLACE))
    page.locator(TOKENS).nth(8).click()
    page.mouse.move(5, 5)
    assert page.locator("#module label:visible").count() == 2
    for selector in ("#module label >> nth=1", "#kind label >> nth=1"):
        before = shown(page)
        page.locator(selector).click()
        page.mouse.move(5, 5)
        assert np.abs(shown(page) - before).max() > 10
        assert marked(page) == [9] and claims(page) and "Token 9:" in page.locator("#caption").inner_text()
    assert "Used here" in page.locator("#claims").inner_text()
    assert not page.locator("#module").is_visible()  # the last module of a classifier has no projector


@needs_browser
def test_the_legend_of_a_segmenter_switches_its_classes(visit, tmp_path):
    page = visit()
    photo = picture(tmp_path / "photo.png")
    uploaded(page, photo)
    old = source(page)
    choose_model(page, SEGMENTER)
    painted, requests = shown(page, after=old), asked(page)
    assert marked(page) == []  # no map is shown
    assert page.locator("#module label:visible").count() == 4 and page.locator(TOKENS).count() == 8
    switches = page.locator("#legend button")
    assert switches.count() >= 1 and {"true"} == set(attributes(page, "#legend button", "aria-pressed"))
    for number in range(switches.count()):
        switches.nth(number).click()
    page.mouse.move(5, 5)
    plain = shown(page)
    assert np.ptp(plain, axis=-1).max() < 12 and np.abs(plain - painted).max() > 10  # the photo in grey
    switches.first.click()
    page.mouse.move(5, 5)
    assert attributes(page, "#legend button", "aria-pressed")[0] == "true"
    assert np.abs(shown(page) - plain).max() > 10
    labels = load(page.locator("#model input").input_value())(photo).labels
    name = NAMES[labels[labels.shape[0] // 2, labels.shape[1] // 2]]
    page.mouse.move(*point(page, 0.5, 0.5))
    assert f"({name})" in page.locator("#claims").inner_text()
    page.locator(TOKENS).nth(2).click()  # brings its map, in place of the classes
    assert page.locator("#map input").is_checked() and not page.locator("#classes input").is_checked()
    assert marked(page) == [3] and not requests


@needs_browser
def test_clothes_are_the_headline_of_a_segmenter(visit):
    page = visit()
    page.locator(PORTRAIT).click()
    page.wait_for_selector("#legend")
    assert page.locator("#answer b").inner_text() == "jacket"
    assert attributes(page, "#legend button", "data-name") == ["jacket", "hair", "background"]


@needs_browser
def test_a_classifier_below_its_threshold_says_that_it_knows_nothing_well(visit):
    page = visit()
    best = page.locator("#answer b").inner_text()
    choose_model(page, UNSURE)
    wait_for_text(page, "#answer", "Nothing I know well")
    assert f"at best {best}" in page.locator("#answer").inner_text()


@needs_browser
def test_it_is_dimmed_and_says_looking_while_it_works(visit):
    page, held = visit(), []
    page.route(
        "**/queue/data*", lambda request: held.append(request)
    )  # the answer waits until it was seen that one waits for it
    page.locator("#samples button").nth(1).click()
    page.wait_for_selector("#stage .pending")
    said, opacity = page.evaluate(
        """() => [getComputedStyle(document.querySelector(".layers"), "::after").content,
                  getComputedStyle(document.querySelector(".photo")).opacity]"""
    )
    assert "looking" in said and float(opacity) < 1
    for request in held:
        request.continue_()
    page.unroute("**/queue/data*")
    page.wait_for_selector("#stage .pending", state="detached")
    assert page.evaluate("getComputedStyle(document.querySelector('.photo')).opacity") == "1"


@needs_browser
def test_it_links_to_the_paper_and_to_readme(visit, address):
    page = visit()
    paper, readme = attributes(page, "#intro nav a", "href")
    assert paper == "https://arxiv.org/abs/2006.03677"
    page.goto(f"{address}/{readme}")
    page.get_by_role("heading", name="vt_timm", exact=False).first.wait_for()
    assert page.locator("img").count() == 0
    assert all(link.startswith("http") for link in attributes(page, ".prose a", "href"))


@needs_browser
def test_the_picture_is_saved_as_it_is_shown(visit):
    page = visit()
    page.mouse.click(*point(page, *PLACE))
    with page.expect_download() as download:
        page.locator("#save").click()
    page.mouse.move(5, 5)
    saved = Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB")
    seen = shown(page)
    photo = saved.crop((0, 0, saved.width, round(saved.width * seen.shape[0] / seen.shape[1])))
    small = [
        np.asarray(one.resize((48, 48), Image.Resampling.BOX)).astype(float)
        for one in (photo, Image.fromarray(seen.astype(np.uint8)))
    ]
    assert np.abs(small[0] - small[1]).mean() < 6
    assert photo.height < saved.height  # below it stands whose photo it is, and what is shown
    assert np.asarray(saved)[photo.height :].min() < 60


@needs_browser
def test_every_word_of_ours_is_explained_and_every_picture_described(visit):
    page = visit()
    helps = page.locator(".help:visible")
    assert helps.count() >= 6
    for number in range(helps.count()):
        target = page.locator("#" + helps.nth(number).get_attribute("popovertarget"))
        assert not target.is_visible()
        helps.nth(number).click()
        assert target.is_visible() and len(target.inner_text()) > 40
        shape = target.bounding_box()
        assert shape["x"] >= 0 and shape["x"] + shape["width"] <= 1280
        page.keyboard.press("Escape")
    descriptions = attributes(page, "img:not(.map):not(.class)", "alt")
    assert len(descriptions) > 20 and all(descriptions)
    assert len(set(attributes(page, f"{TOKENS} img", "alt"))) == 16


@needs_browser
def test_a_model_without_attention_answers_and_the_page_says_so(visit):
    page = visit()
    choose_model(page, WITHOUT_TOKENS)
    wait_for_text(page, "#caption", "without showing tokens")
    assert "%" in page.locator("#answer").inner_text()
    for selector in ("#tokens", "#claims", "#kind", "#module", "#map"):
        assert not page.locator(selector).is_visible()
    choose_model(page, 0)
    page.wait_for_selector(TOKENS)
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
    for page, old in zip((red, blue), before, strict=True):
        shown(page, after=old)
    mean_red, mean_blue = (photo(page).mean(axis=(0, 1)) for page in (red, blue))
    assert mean_red[0] > mean_red[2] + 60 and mean_blue[2] > mean_blue[0] + 60
    token = marked(blue)
    number = next(n for n in (2, 3) if token != [n + 1])
    red.locator(TOKENS).nth(number).click()
    assert marked(red) == [number + 1] and marked(blue) == token


@needs_browser
def test_on_a_phone_what_changes_is_in_sight(visit, tmp_path):
    page = visit(width=390, height=844)
    uploaded(page, picture(tmp_path / "photo.png"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("scrollY") == 0
    for selector in ("#model", "#answer", ".layers", "#caption"):  # what an upload brings, without scrolling
        found = box(page, selector)
        assert found["y"] >= 0 and found["y"] + found["height"] <= 844 and found["x"] + found["width"] <= 390
    last = page.locator(TOKENS).last
    last.scroll_into_view_if_needed()
    last.tap()
    wait_for_text(page, "#caption", "Token 16")
    view, thumbnail, badge = box(page, "#view"), last.bounding_box(), last.locator(".number").bounding_box()
    assert view["y"] >= 0 and view["y"] + view["height"] <= thumbnail["y"]  # the large map above the token that was hit
    assert thumbnail["x"] + thumbnail["width"] <= 390
    assert badge["width"] * badge["height"] < 0.07 * thumbnail["width"] * thumbnail["height"]


@needs_browser
@pytest.mark.parametrize("scrolled", [0, 200, 500, 5000])
def test_on_a_phone_the_answer_to_a_tap_is_not_behind_the_photo(scrolled, visit, temple):
    page = visit(width=390, height=844)
    page.evaluate("by => scrollTo(0, by)", scrolled)
    page.touchscreen.tap(*point(page, *PLACE))
    wait_for_text(page, "#claims", "%")
    shares = shares_at(temple, *PLACE)
    (best,) = marked(page)
    assert shares[best - 1] > max(shares) - NEAR
    page.wait_for_timeout(300)
    photo = box(page, ".layers")
    for selector in ("#caption", "#claims"):
        said = box(page, selector)
        assert said["y"] >= photo["y"] + photo["height"] - 1 and said["y"] + said["height"] <= 844
        on_top = page.evaluate(
            "([x, y, on]) => Boolean(document.elementFromPoint(x, y).closest(on))",
            [said["x"] + 10, said["y"] + said["height"] / 2, selector],
        )
        assert on_top


@needs_browser
def test_on_a_phone_the_models_are_near_the_top_and_not_cut_and_one_taps(visit):
    page = visit(width=390, height=844)
    assert box(page, "#model")["y"] < box(page, "#answer")["y"] < 300
    inside = page.locator("#model input")
    for number in range(2):
        choose_model(page, number)
        page.wait_for_timeout(200)
        if number == 0:
            assert inside.evaluate("one => one.scrollWidth <= one.clientWidth")
    text = page.locator("body").inner_text()
    assert "Tap" in text and not re.search("click|point at", text, re.IGNORECASE)
    assert "Click" in visit().locator("body").inner_text()
