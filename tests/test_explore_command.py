"""The page without a browser: the command that serves it, what it says of bad input, and the Space."""

import socket
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from vt_timm.cli import main
from vt_timm.explore import words
from vt_timm.explore.session import Session
from vt_timm.images import read_image
from vt_timm.pipelines.classification import ClassificationPipeline
from vt_timm.pipelines.sources import load
from vt_timm.weights.published import unsure_below

SPACE = Path(__file__).parents[1] / "hub" / "space"


def test_what_every_visitor_sees_is_on_the_page_and_no_file_on_the_server():
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    from vt_timm.explore.page import Page

    page = Page(["vt_resnet_micro"])
    first = page.stage.value
    assert first.count("data:image/jpeg") == 2 and first.count("data:image/webp") == 16 * (2 + 1)  # two modules take
    assert "file=" not in first and not any(page.blocks.temp_file_sets)


def test_a_note_of_the_config_says_below_which_probability_a_classifier_is_unsure():
    assert load("vt_resnet_micro").unsure_below == 0
    noted = timm.create_model("vt_resnet_micro", pretrained_cfg_overlay={"notes": ("made here", "unsure_below=0.8")})
    assert unsure_below(noted.pretrained_cfg) == 0.8
    assert unsure_below(timm.create_model("resnet18").pretrained_cfg) == 0


@pytest.mark.parametrize("unsure", [False, True])
def test_the_best_of_many_classes_is_named_however_little_it_is(unsure):
    notes = ("unsure_below=0.5",) * unsure
    model = timm.create_model("vt_resnet_micro", num_classes=300, pretrained_cfg_overlay={"notes": notes})
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data[7] += 0.1
    pipeline = ClassificationPipeline(model.eval())
    said = words.headline(Session.begin(Image.new("RGB", (64, 64)), "model", pipeline))
    assert said == ([("Nothing I know well", ""), ("at best class 7", "< 1 %")] if unsure else [("class 7", "< 1 %")])


def test_what_fails_on_a_free_port_is_not_the_ports_fault(capsys, monkeypatch):
    page = pytest.importorskip("vt_timm.explore.page", reason="needs gradio: pip install '.[explore]'")
    monkeypatch.setattr(page, "serve", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["explore", "--port", str(port)]) == 2
    assert "No space left on device" in (err := capsys.readouterr().err) and "in use" not in err


def test_a_busy_port_is_said_in_our_own_line(capsys):
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--port", str(port)]) == 2
    out, err = capsys.readouterr()
    assert (
        err
        == f"vt-timm: port {port} is in use, perhaps by another such page: end that, or choose another with --port\n"
    )
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--port", "70000"], "1 to 65535"), (["--host", "203.0.113.7"], "no such address")],
)
def test_an_address_that_cannot_be_is_said_in_a_line(arguments, said, capsys):
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    assert main(["explore", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_is_served(host, capsys, monkeypatch):
    gradio = pytest.importorskip("gradio", reason="needs gradio: pip install '.[explore]'")
    from vt_timm.explore import page

    try:
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::1", 0))
            port = free.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    with gradio.Blocks() as blocks:
        gradio.HTML("tokens")
    blocks.block_thread = lambda: None
    monkeypatch.setattr(page, "Page", lambda models: SimpleNamespace(blocks=blocks))
    try:
        assert main(["explore", "--host", host, "--port", str(port)]) == 0
        address = f"http://[::1]:{port}/"
        assert f"ready: {address} " in capsys.readouterr().out
        assert urllib.request.urlopen(address).status == 200
    finally:
        blocks.close()


def test_the_space_starts_this_page():
    front = (SPACE / "README.md").read_text().split("---")[1]
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio" and (SPACE / settings["app_file"]).is_file()
    assert (SPACE / "requirements.txt").read_text().strip() == "vt_timm[explore]"
    compile((SPACE / "app.py").read_text(), "app.py", "exec")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "vt_timm.explore.page", raising=False)
    assert main(["explore"]) == 2
    assert "pip install 'vt_timm[explore]'" in capsys.readouterr().err


def test_grey_values_of_16_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(read_image(tmp_path / "grey.png")).tolist() == np.full((4, 4, 3), 128).tolist()
