"""`vt-timm run`: where timm's scripts are found, and from where they are downloaded."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm

from vt_timm import cli
from vt_timm.timm_scripts import find as timm_scripts
from vt_timm.timm_scripts.checks import ScriptError
from vt_timm.timm_scripts.find import find_script


def test_a_path_given_comes_first_then_the_variable(tmp_path, monkeypatch):
    for folder in ("given", "variable"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.py").write_text("")
    monkeypatch.setenv("VT_TIMM_SCRIPTS", str(tmp_path / "variable"))
    assert find_script("train", str(tmp_path / "given")) == tmp_path / "given" / "train.py"
    assert find_script("train", str(tmp_path / "given" / "train.py")) == tmp_path / "given" / "train.py"
    assert find_script("train") == tmp_path / "variable" / "train.py"


def test_then_the_checkout_of_an_editable_timm(tmp_path, monkeypatch):
    monkeypatch.delenv("VT_TIMM_SCRIPTS", raising=False)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "version.py").write_text("__version__ = '9.9.9'\n")
    (tmp_path / "train.py").write_text("")
    monkeypatch.setattr(timm_scripts.timm, "__file__", str(tmp_path / "timm" / "__init__.py"))
    assert find_script("train") == tmp_path / "train.py"
    assert timm_scripts.script_version(tmp_path / "train.py") == "9.9.9"


class GitHub(BaseHTTPRequestHandler):
    """Answers as GitHub's contents interface does, as long as `files` has the path."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012
    damage = False
    cut = 0  # bytes of the answer that never come

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.partition("?")[0].lstrip("/")
        if name not in self.files:
            return self.send_error(404, "Not Found")
        content = self.files[name]
        sha = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        sent = content[:-1] if self.damage else content
        body = json.dumps({"sha": sha, "content": base64.encodebytes(sent).decode()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def github(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    GitHub.files, GitHub.asked, GitHub.damage = {"train.py": b"print('timm')\n"}, [], False
    monkeypatch.delenv("VT_TIMM_SCRIPTS", raising=False)
    monkeypatch.setenv("VT_TIMM_SCRIPTS_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield GitHub
    server.shutdown()
    server.server_close()


def test_then_a_download_of_the_installed_versions_tag_that_is_kept(github):
    path = find_script("train")
    assert path.read_bytes() == b"print('timm')\n"
    assert github.asked == [f"/train.py?ref=v{timm.__version__}"]
    assert timm_scripts.script_version(path) == timm.__version__
    assert find_script("train") == path and len(github.asked) == 1


def test_a_damaged_download_is_not_kept(github):
    github.damage = True
    with pytest.raises(ScriptError, match="damaged file; try again, or run `git clone --branch v"):
        find_script("train")
    github.damage = False
    assert find_script("train").read_bytes() == b"print('timm')\n"


def test_a_download_that_breaks_off_is_one_line(github):
    github.cut = 9
    with pytest.raises(ScriptError, match=r"gives none \(.*\); run `git clone --branch v"):
        find_script("train")
    github.cut = 0
    assert find_script("train").read_bytes() == b"print('timm')\n"


def test_a_damaged_cache_is_fetched_again(github):
    path = find_script("train")
    path.write_bytes(b"print('ti")
    assert find_script("train").read_bytes() == b"print('timm')\n" and len(github.asked) == 2


def test_nothing_reachable_says_what_to_run(github, monkeypatch, capsys):
    version = timm.__version__
    clone = f"git clone --branch v{version} https://github.com/huggingface/pytorch-image-models"
    for url in (None, "http://127.0.0.1:1"):  # a server without the file, no server
        if url:
            monkeypatch.setenv("VT_TIMM_SCRIPTS_URL", url)
        assert cli.main(["run", "validate", "--help"]) == 2
        error = capsys.readouterr().err
        assert clone in error and "VT_TIMM_SCRIPTS=pytorch-image-models" in error and error.count("\n") == 1


def test_a_wrong_path_is_one_line(capsys):
    assert cli.main(["run", "--from", "/nowhere", "train"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "/nowhere: there is no" in error
