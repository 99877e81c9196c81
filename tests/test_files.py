"""What is written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from vt_timm.files import identity, restore, whole_file, whole_folder


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
    (tmp_path / "best.old").mkdir()
    restore(tmp_path / "best")
    assert os.listdir(tmp_path) == ["best"]
    (tmp_path / "best.old").mkdir()
    restore(tmp_path / "best")
    assert sorted(os.listdir(tmp_path)) == ["best", "best.old"]


def test_names_of_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photo.png"
    assert identity(photo) == identity(Path("photo.png")) != identity(tmp_path / "other.png")  # none of them is there
    photo.touch()
    (tmp_path / "linked.png").symlink_to(photo)
    os.link(photo, tmp_path / "hard.png")
    (tmp_path / "other.png").touch()
    assert identity(photo) == identity(Path("linked.png")) == identity(Path("hard.png")) != identity(Path("other.png"))
