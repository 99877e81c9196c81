"""The Space of the Hub, started as the Hub starts it: its own folder, its own requirements, its own port."""

import os
import shutil
import socket
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.page import chromium, marked, needs_browser, open_page, point, shown, source, started

SPACE = Path(__file__).parents[1] / "hub" / "space"
# .ci/run makes an environment with nothing but the Space's requirements; elsewhere the tests' own stands in for it.
PYTHON = os.environ.get("VT_TIMM_SPACE_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The Space's address."""
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    folder = shutil.copytree(SPACE, tmp_path_factory.mktemp("hub") / "space")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": ""}
    with started([PYTHON, "app.py"], f"http://localhost:{port}", cwd=folder, env=environment):
        yield f"http://127.0.0.1:{port}"


def test_the_space_serves_its_page(space):
    with urlopen(space) as answer:
        page = answer.read().decode()
    assert '<meta property="og:title" content="Visual tokens" />' in page


@needs_browser
def test_the_space_answers_a_visitor(space):
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        open_page(page, space)
        assert "%" in page.locator("#answer").inner_text() and page.locator("#samples button").count() >= 6
        page.mouse.move(*point(page, 0.5, 0.5))
        assert len(marked(page)) == 1
        old = source(page)
        page.locator("#samples button").nth(1).click()
        shown(page, after=old)
        assert page.locator("#model input").input_value()
