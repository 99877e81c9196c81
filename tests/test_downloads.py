"""The Hub as its client meets it, on the loopback address: what arrives, and every way in which it can fail."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

import vt_timm
from tests.support.hub_server import HubServer, connect, environment, point_at
from tests.support.samples import settings
from vt_timm import cli
from vt_timm.errors import UserError
from vt_timm.export.write_file import describe
from vt_timm.pipelines.sources import load, load_network
from vt_timm.run_files import CONFIG, WEIGHTS
from vt_timm.segmentation import training
from vt_timm.segmentation.model import load_segmenter
from vt_timm.timm_scripts.checks import create_or_say
from vt_timm.weights.download import DownloadError, fetch, is_cached
from vt_timm.weights.published import HUB

SHIPPED = HUB / "vt_resnet_micro.muon_imagenette"
NAME = "somebody/vt_resnet_micro.muon_imagenette"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server with the shipped micro model, the client of this process pointed at it, and an empty cache."""
    with HubServer() as server:
        connect(server.url, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses between attempts
        for name in (CONFIG, WEIGHTS):
            server.put(NAME, name, (SHIPPED / name).read_bytes())
        yield server


def unplug(monkeypatch):
    point_at("http://127.0.0.1:9", monkeypatch)  # nobody listens there


def logits(model):
    with torch.inference_mode():
        return model.eval()(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))


def assert_loads():
    expected = logits(timm.create_model(f"local-dir:{SHIPPED}", pretrained=True))
    assert torch.equal(logits(timm.create_model(f"hf-hub:{NAME}", pretrained=True)), expected)


def test_a_model_arrives_whole_and_is_cached(hub, monkeypatch):
    assert not is_cached(NAME)
    assert_loads()
    assert is_cached(NAME)
    unplug(monkeypatch)
    assert_loads()


def test_offline_mode_uses_a_warm_cache(hub, monkeypatch, capsys):
    assert cli.main(["download", NAME]) == 0
    assert f'vt_timm.load("{NAME}")' in capsys.readouterr().out
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    requests = len(hub.requests)
    assert_loads()
    assert len(hub.requests) == requests


@pytest.mark.parametrize(
    ("source", "faults", "message"),
    [
        ("somebody/else", {}, "there is no repository somebody/else on the Hub, or it is private"),
        (NAME, dict(gated=True), "is gated: accept its conditions at"),
        (NAME, dict(status=403), r"no permission to read .* \(HTTP 403\): log in with `hf auth login`"),
        (NAME, dict(status=401), "no permission to read|there is no repository"),
        (NAME, dict(status=500), r"the Hub could not serve .* \(HTTP 500\): try again later"),
        (f"{NAME}@gone", {}, "the repository has no such revision"),
        ("no name at all", {}, "neither a folder here nor a repository's name"),
        (NAME, dict(cut_after=0, cuts=99), "broke off .*: run it again; nothing incomplete is used"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_the_next_call_works(source, faults, message, hub, tmp_path):
    for key, value in faults.items():
        setattr(hub.faults, key, value)
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(source)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.incomplete"))
    hub.faults.__init__()
    assert_loads()


def test_the_command_says_it_in_one_line_too(hub, capsys):
    assert cli.main(["download", "somebody/else"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vt-timm: there is no repository somebody/else on the")
    assert cli.main(["classify", "sample", "--model", "hf-hub:somebody/else"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vt-timm: there is no repository somebody/else on the")


def test_without_network_and_cache(hub, monkeypatch):
    """Said at once: the client would pause five times, for most of a minute."""
    unplug(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    with pytest.raises(DownloadError, match=r"is not in the cache and the Hub at http://127.0.0.1:9 cannot be reached"):
        fetch(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="is not in the cache and HF_HUB_OFFLINE is set"):
        fetch(NAME)


@pytest.fixture
def tries(hub, monkeypatch):
    """Without a network: the connections that were tried, and no pause between them."""
    unplug(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    made = []

    def refuse(address, *_args, **_options):
        made.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", refuse)
    return made


def train(folder, backbone):
    changes = dict(neck="vt_fpn", backbone=backbone, pretrained_backbone=True)
    return training.run(settings(folder, **changes), folder / "run", resume=False)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda f: load("resnet18"), "timm/resnet18.a1_in1k is not in the cache and the Hub at .* cannot be reached: "),
        (lambda f: load(NAME), "a model that ships"),
        (lambda f: load(f"hf-hub:{NAME}"), "a model that ships"),
        (
            lambda f: vt_timm.Segmenter.from_pretrained("somebody/segmenter"),
            "run `vt-timm download somebody/segmenter`",
        ),
        (
            lambda f: train(f, "tf_efficientnet_lite0.in1k"),
            r"start from what ships with initial_checkpoint=vt_fpn_tf_efficientnet_lite0.ccp, name weights on this",
        ),
        (
            lambda f: train(f, "resnet18"),
            "initial_checkpoint=vt_fpn_tf_efficientnet_lite0.ccp backbone=tf_efficientnet_lite0, ",
        ),
        (lambda f: train(f, f"hf-hub:{NAME}"), "cannot be reached"),
        (
            lambda f: vt_timm.create_teacher("resnet18"),
            "cannot be reached; name another, for instance local-dir:FOLDER",
        ),
        (lambda f: timm.create_model("vt_resnet18", pretrained_backbone="resnet18"), "give a timm ResNet with weights"),
        (lambda f: create_or_say(timm.create_model)("resnet18", pretrained=True), "cannot be reached"),
    ],
)
def test_without_network_the_hub_is_tried_once(ask, message, tries, small):
    """And what to do is said in one line, where the client would try a file six times and pause between."""
    with pytest.raises((RuntimeError, UserError, ValueError), match=message) as caught:
        ask(small)
    assert len(tries) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["classify", "sample", "--model", "resnet18"], ["download", "resnet18"]])
def test_without_network_a_command_tries_the_hub_once(arguments, tries, capsys):
    assert cli.main(arguments) == 2
    assert len(tries) == 1 and "cannot be reached: connect and run `vt-timm download" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["resnet18.no_such_tag", "no_such_model", "vt_resnet50"])
def test_a_name_that_the_hub_is_not_asked_for_is_left_to_timm(name, tries):
    with pytest.raises(UserError, match=f"cannot load {name}"):
        load(name)
    assert tries == []


def test_a_cut_connection_is_taken_up_again(hub):
    hub.faults.cut_after, hub.faults.cuts = 300_000, 2
    assert_loads()
    assert len([path for path in hub.paths("GET") if path.startswith("/cdn/")]) == 3


@pytest.mark.parametrize("damage", ["truncated", "another", "page"])
def test_a_file_that_is_damaged_on_the_hub_is_not_kept(damage, hub):
    data = (SHIPPED / WEIGHTS).read_bytes()
    digest = hub.repositories[NAME].files[WEIGHTS]
    spoilt = {"truncated": data[:-100], "another": data[:-1] + bytes([data[-1] ^ 1]), "page": b"<html>busy</html>"}
    hub.contents[digest] = spoilt[damage]
    with pytest.raises(RuntimeError, match=r"also when fetched anew: tell its owner"):
        timm.create_model(f"hf-hub:{NAME}", pretrained=True)
    hub.contents[digest] = data
    assert_loads()


@pytest.mark.parametrize("damage", ["truncated", "another"])
def test_a_cached_file_that_was_damaged_heals(damage, hub):
    blob = fetch(NAME).resolve()
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(data[:5000] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    assert_loads()


def test_a_pickle_is_refused_and_not_even_fetched(hub):
    del hub.repositories[NAME].files[WEIGHTS]
    hub.put(NAME, "pytorch_model.bin", b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(RuntimeError, match=r"holds no model.safetensors; vt_timm loads safetensors only"):
        timm.create_model(f"hf-hub:{NAME}", pretrained=True)
    overlay = dict(hf_hub_id=NAME, hf_hub_filename="pytorch_model.bin", file="")
    with pytest.raises(RuntimeError, match="is not a safetensors file; vt_timm loads no pickles"):
        timm.create_model("vt_resnet_micro", pretrained=True, pretrained_cfg_overlay=overlay)
    assert not any("pytorch_model" in path for path in hub.paths("GET"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(architecture="vt_resnet18"), "these weights are not of this model"),
        (dict(architecture="vt_resnet999"), "Unknown model"),
    ],
)
def test_a_config_of_another_architecture(changes, message, hub, capsys):
    config = json.loads((SHIPPED / CONFIG).read_text())
    hub.put(NAME, CONFIG, json.dumps({**config, **changes}).encode())
    assert cli.main(["download", NAME]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    hub.put(NAME, CONFIG, json.dumps(config).encode())
    assert cli.main(["download", NAME]) == 0


def test_a_config_that_is_no_json(hub, capsys):
    hub.put(NAME, CONFIG, b"<html>")
    assert cli.main(["download", NAME]) == 2
    assert "config.json is not JSON" in capsys.readouterr().err


def test_names_that_need_no_download_and_names_that_do_not_exist(tmp_path, monkeypatch, capsys):
    segmenter = "vt_fpn_tf_efficientnet_lite0.ccp"
    assert cli.main(["download", "vt_resnet18", "vt_resnet_micro.muon_imagenette", segmenter]) == 0
    assert capsys.readouterr().out.count("ships with vt_timm") == 3
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    assert cli.main(["download", "./mine", "local-dir:mine", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.count("mine lies here already: there is nothing to download") == 3
    assert cli.main(["download", segmenter[:-1]]) == 2
    assert f"did you mean {segmenter}" in capsys.readouterr().err
    assert cli.main(["download", "vt_resne18"]) == 2
    assert "there are no weights called vt_resne18; did you mean vt_resnet18" in capsys.readouterr().err


def test_an_export_takes_the_licence_from_the_card_on_the_hub(hub, monkeypatch):
    def licence():
        return describe(load(f"hf-hub:{NAME}"), "float32")["vt_timm.license"]

    config = json.loads((SHIPPED / CONFIG).read_text())
    assert licence() == json.dumps(config["pretrained_cfg"]["license"])
    del config["pretrained_cfg"]["license"]
    hub.put(NAME, CONFIG, json.dumps(config).encode())
    assert licence() == "null"  # there is no card
    hub.put(NAME, "README.md", b"---\nlicense: cc-by-4.0\n---\n")
    assert licence() == '"cc-by-4.0"'
    unplug(monkeypatch)
    assert licence() == '"cc-by-4.0"'  # from the cache


def test_segmenters_come_the_same_way(hub, tmp_path, capsys):
    model = vt_timm.create_segmenter("vt_fpn", "vt_resnet_micro", num_classes=3, token_dim=64, num_heads=4)
    model.save_pretrained(tmp_path / "model")
    for name in (CONFIG, WEIGHTS):
        hub.put("somebody/segmenter", name, (tmp_path / "model" / name).read_bytes())
    for way in (load_segmenter, vt_timm.Segmenter.from_pretrained):
        assert torch.equal(logits(way("somebody/segmenter")), logits(model))
    assert cli.main(["download", "somebody/segmenter"]) == 0
    hub.put("somebody/segmenter", CONFIG, b'{"neck": "vt_fpn", "backbone": "no_such_model"}')
    assert cli.main(["download", "somebody/segmenter"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vt-timm: cannot load the segmenter")
    hub.put("somebody/segmenter", CONFIG, (tmp_path / "model" / CONFIG).read_bytes())
    with pytest.raises(UserError, match="is a classifier, and not a segmenter"):
        load_network(NAME, "segmenter")
    repository = hub.repositories["somebody/segmenter"]
    del repository.files[WEIGHTS]
    repository.commits += 1
    hub.put("somebody/segmenter", "pytorch_model.bin", b"cos\nsystem\n(S'touch owned'\ntR.")
    for way in (load_segmenter, vt_timm.Segmenter.from_pretrained):
        with pytest.raises(RuntimeError, match="loads safetensors only, never a pickle"):
            way("somebody/segmenter")


# In processes of their own, as users have them.


def run_python(code, env, cwd=None):
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_processes_may_fetch_the_same_model_at_once(hub, tmp_path):
    hub.faults.seconds_per_file = 0.5
    code = f"import timm, vt_timm; print(timm.create_model('hf-hub:{NAME}', pretrained=True).num_classes)"
    env = environment(tmp_path / "home", hub.url)
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda _: run_python(code, env), range(2)))
    assert outputs == ["10\n", "10\n"]


def test_a_tag_without_its_file_comes_from_the_hub(hub, tmp_path):
    """A tag, as in a wheel that carries the folder's config.json and not its weights."""
    package = tmp_path / "site" / "vt_timm"
    shutil.copytree(Path(vt_timm.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "hub"))
    (package / "hub" / SHIPPED.name).mkdir(parents=True)
    shutil.copy(SHIPPED / CONFIG, package / "hub" / SHIPPED.name)
    env = environment(tmp_path / "home", hub.url)
    env |= {"PYTHONPATH": str(tmp_path / "site"), "VT_TIMM_HUB_ORGANISATION": "somebody"}
    code = f"""
import contextlib, io, json, timm, torch, vt_timm
from vt_timm.cli import main

def weights():
    with contextlib.redirect_stdout(io.StringIO()) as listing:
        main(["models", "--json"])
    return {{m["model"]: m["weights"] for m in json.loads(listing.getvalue())}}["{SHIPPED.name}"]

x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
found = [weights()]
for name in ("vt_resnet_micro", "vt_resnet_micro.muon_imagenette", "hf-hub:somebody/vt_resnet_micro.muon_imagenette"):
    model = timm.create_model(name, pretrained=True).eval()
    with torch.inference_mode():
        found.append(model(x).tolist())
print(json.dumps([*found, weights()]))
"""
    expected = logits(timm.create_model(f"local-dir:{SHIPPED}", pretrained=True)).tolist()
    assert json.loads(run_python(code, env, cwd=tmp_path)) == [f"remote: {NAME}", *[expected] * 3, f"cached: {NAME}"]
