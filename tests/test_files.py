"""What is written whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vt_timm.errors import UserError
from vt_timm.files import alone_in, identity, restore, whole_file, whole_folder


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_takes_its_place_with_the_rights_of_a_new_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as new:
        new.touch(mode=0o600)
        new.write_text("new")
        assert new.name == path.name and path.read_text() == "old"
    (fresh := tmp_path / "fresh").touch()
    assert path.read_text() == "new" and rights(path) == rights(fresh)


def test_a_writer_that_fails_or_writes_another_file_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for writer in (lambda new: new.write_text("half") + 1 / 0, lambda new: new.with_suffix(".png").write_text("all")):
        with pytest.raises((ZeroDivisionError, FileNotFoundError)), whole_file(path) as new:
            writer(new)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_as_the_user_did(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "no" / "a.txt", tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(OSError) as said, whole_file(path) as new:
            new.touch()
        assert said.value.filename == str(path)
    full = OSError(28, "No space left on device")
    for named in ("a.txt", None):
        with pytest.raises(OSError) as said, whole_file(tmp_path / "a.txt") as new:
            full.filename = named and str(new)
            raise full
        assert "No space left" in str(said.value) and said.value.filename == (named and str(tmp_path / "a.txt"))


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "model").write_text("mine")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "model")
    with whole_file(tmp_path / "link.onnx") as new:
        new.write_text("exported")
    assert (tmp_path / "model").read_text() == "mine" and (tmp_path / "link.onnx").read_text() == "exported"


def test_a_folder_takes_its_place_at_once(tmp_path):
    folder = tmp_path / "best"
    for text in ("one", "two"):
        with whole_folder(folder) as new:
            (new / text).touch(mode=0o600)
            (new / "both").write_text(text)
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as new:
        raise ZeroDivisionError
    (fresh := tmp_path / "fresh").touch()
    assert sorted(os.listdir(folder)) == ["both", "two"] and (folder / "both").read_text() == "two"
    assert rights(folder / "two") == rights(fresh) and sorted(os.listdir(tmp_path)) == ["best", "fresh"]


def test_a_folder_moved_aside_comes_back(tmp_path):
    """As a process leaves it that is killed between the two moves."""
    (tmp_path / ".best.old").mkdir()
    restore(tmp_path / "best")
    assert os.listdir(tmp_path) == ["best"]
    (tmp_path / ".best.old").mkdir()
    restore(tmp_path / "best")
    assert sorted(os.listdir(tmp_path)) == [".best.old", "best"]


def test_a_copy_that_the_user_made_of_a_folder_stays(tmp_path):
    for name in ("best", "best.old", "best.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    with whole_folder(tmp_path / "best") as new:
        (new / "ours").touch()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "best/ours",
        "best.old/mine",
        "best.new/mine",
    }


@pytest.mark.parametrize("save", ["weights", "program", "checkpoint"])
def test_a_full_disk_is_one_line(save, tmp_path):
    """A limit on the size of files stands in for the disk; it holds for one process, which torch may not end."""
    weights = "save_file({'a': torch.zeros(100_000)}, 'out')"
    checkpoint = "torch.save({'a': torch.zeros(100_000)}, 'out')"
    program = "write_graph(torch.nn.Linear(400, 400), torch.zeros(2, 3, 4, 400), Path('out'), PT2, {})"
    code = f"""
import resource, signal, torch
from pathlib import Path
from safetensors.torch import save_file
from vt_timm.errors import CommandError
from vt_timm.export.formats import PT2, write_graph
from vt_timm.files import writing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with writing("out"):
        {dict(weights=weights, program=program, checkpoint=checkpoint)[save]}
except CommandError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    reason = "no space is left" if save == "checkpoint" else "File too large"  # of which torch's writer says nothing
    assert done.stdout.startswith("cannot write out: ") and reason in done.stdout, done.stderr[-800:]


def test_a_killed_training_frees_its_folder_though_its_workers_live_on(tmp_path):
    code = """
import os, time
from pathlib import Path
from vt_timm.files import alone_in
with alone_in(Path("run")):
    worker = os.fork()  # as torch starts those of a loader
    if worker:
        print(worker, flush=True)
    time.sleep(600)
"""
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    try:
        with pytest.raises(UserError, match="another training writes to"), alone_in(tmp_path / "run"):
            pytest.fail("two hold it")
        run.kill()
        run.wait()
        with alone_in(tmp_path / "run"):
            os.kill(worker, 0)  # lives
    finally:
        run.kill()
        os.kill(worker, signal.SIGKILL)
    assert not list((tmp_path / "run").iterdir())


def test_names_of_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photo.png"
    assert identity(photo) == identity(Path("photo.png")) != identity(tmp_path / "other.png")  # none of them is there
    photo.touch()
    (tmp_path / "linked.png").symlink_to(photo)
    os.link(photo, tmp_path / "hard.png")
    (tmp_path / "other.png").touch()
    assert identity(photo) == identity(Path("linked.png")) == identity(Path("hard.png")) != identity(Path("other.png"))
