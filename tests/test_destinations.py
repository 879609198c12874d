"""A folder is probed as it will be written to, and nothing is left or made."""

import os

import pytest

from rankadaptor import destinations
from rankadaptor.destinations import require_apart, require_file, require_new_folder, require_writable
from rankadaptor.errors import BadInput


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.symlink("folder", tmp_path / "link")
    yield tmp_path
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "link"]


@pytest.mark.parametrize("name", [
    ".", "folder", "link", "new", "new/er", "folder/new", "link/new", "new/../x", "a b,c",
])
def test_what_is_there_or_can_be_made_is_returned(name, here):
    assert str(require_writable("it", name)) == name
    assert require_writable("it", here / name) == here / name


def test_a_new_folder_may_lie_in_new_folders(here):
    for name in ("new", "new/er", "folder/new", "link/new"):
        assert str(require_new_folder("out", name)) == name
        assert require_new_folder("out", here / name) == here / name
    for name in ("folder", "link", "file"):
        with pytest.raises(BadInput, match="is there already"):
            require_new_folder("out", name)


def test_a_file_may_be_new_or_replaced_and_lie_in_a_new_folder():
    for name in ("t.parquet", "build/t.parquet", "folder/t.parquet", "file"):
        assert str(require_file("the table", name)) == name
    for name, says in (("folder", "is not a file"), ("file/t", "not a folder"), ("", "name a folder or a file"),
                       ("n" * 256, "256 bytes: give at most 255"), ("é" * 128, "256 bytes: give at most 255")):
        with pytest.raises(BadInput, match=says):
            require_file("the table", name)


def test_ledger_and_reports_are_apart_by_whatever_name(here):
    require_apart("ledger", "reports")
    for other in ("folder", "./folder/", "link", here / "link", "folder/../folder"):
        with pytest.raises(BadInput, match="are one folder, 'folder': name two"):
            require_apart("folder", other)


def test_the_probe_writes_more_than_an_empty_file(monkeypatch):
    """A full disk still makes empty files."""
    written = []

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            written.append(len(data))
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(destinations.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(BadInput, match=r"reports cannot be written to 'new' \(No space left on device\)"):
        require_writable("reports", "new")
    assert written == [4096]
