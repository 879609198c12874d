"""Sealed files and folders: JSON that is read strictly, rights by the umask, everything forced onto the disk."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from rankadaptor import sealed
from rankadaptor.errors import BadInput, Damaged
from rankadaptor.files import write_atomically
from rankadaptor.sealed import (
    bytes_of,
    cached_folder,
    check_folder,
    is_there,
    parse_object,
    read_object,
    read_sealed,
    seal_folder,
    write_sealed,
)


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request):
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def make(folder):
    """A folder of two files, one of them for its user alone, as `tempfile` and safetensors make them."""
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    handle, name = tempfile.mkstemp(dir=folder / "inner")
    os.close(handle)
    os.rename(name, folder / "inner" / "b.bin")
    assert rights(folder / "inner" / "b.bin") == 0o600


def test_everything_that_is_written_has_the_rights_of_the_umask(umask, tmp_path):
    make(tmp_path / "made")
    seal_folder(tmp_path / "made")
    write_atomically(tmp_path / "new" / "text", "text")
    write_sealed(tmp_path / "new" / "object.json", {"a": 1}, {})
    cached_folder(tmp_path / "cache" / "built", make)
    paths = [path for name in ("made", "new", "cache") for path in (tmp_path / name).rglob("*")]
    assert len(paths) == 4 + 2 + 5
    assert {path.name: rights(path) for path in paths} == {
        path.name: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths}


def test_every_file_and_folder_is_forced_onto_the_disk(tmp_path, monkeypatch):
    forced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: forced.add(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle))
    make(tmp_path / "made")
    seal_folder(tmp_path / "made")
    written = {path for path in (tmp_path / "made").rglob("*") if path.name != "checksums.json"}
    assert {str(path) for path in [*written, tmp_path / "made"]} <= forced
    assert any(".checksums.json." in path for path in forced)  # the draft of it
    forced.clear()
    write_atomically(tmp_path / "one" / "two" / "text", "text")
    assert {str(tmp_path), str(tmp_path / "one"), str(tmp_path / "one" / "two")} <= forced  # names of new folders, too


def test_a_check_gives_texts_and_names_of_unlisted_files(tmp_path):
    make(tmp_path / "made")
    seal_folder(tmp_path / "made")
    assert check_folder(tmp_path / "made", ("a.txt",)) == ([], {"a.txt": b"a"})
    (tmp_path / "made" / "inner" / "c").write_text("")
    (tmp_path / "made" / ".hidden").write_text("")
    assert check_folder(tmp_path / "made")[0] == ["inner/c"]
    assert bytes_of(tmp_path / "made" / "a.txt") == 1


def test_a_folder_with_a_link_cannot_be_sealed(tmp_path):
    make(tmp_path / "made")
    (tmp_path / "made" / "link").symlink_to("a.txt")
    with pytest.raises(ValueError, match="link is a symbolic link"):
        seal_folder(tmp_path / "made")


@pytest.mark.parametrize("content", [b'{"a": [1, 2.5, null, true, "\xc3\xa9"]}', b'{"a": 1e308}', b"{}",
                                     b' {"a": -0.0}'])
def test_json_that_this_package_writes_is_read(content):
    assert isinstance(parse_object(content, "file"), dict)


@pytest.mark.parametrize("content", [b'{"a": 1e309}', b'{"a": -1e999}', b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[]", b"1",
                                     b'{"a": {"b": 1, "b": 2}}', b"\xff", b"\xef\xbb\xbf{}", b"{} {}", b"", b"nul",
                                     b'{"a":' * 100_000, b"1" + b"0" * 400 + b".0", b"{'a': 1}"])
def test_json_that_it_never_writes_is_damage(content):
    with pytest.raises(Damaged, match=r"^file is not"):
        parse_object(content, "file")


def test_a_file_that_would_fill_the_memory_is_damage(tmp_path):
    with (tmp_path / "sparse.json").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(Damaged, match=r"has 1,099,511,627,776 bytes"):
        read_object(tmp_path / "sparse.json")


def test_a_seal_is_of_a_content_in_its_place(tmp_path):
    write_sealed(tmp_path / "a.json", {"x": [1.5, 2]}, {"name": "a"})
    assert read_sealed(tmp_path / "a.json", {"name": "a"}) == {"x": [1.5, 2]}
    with pytest.raises(Damaged, match="does not match its seal"):
        read_sealed(tmp_path / "a.json", {"name": "b"})
    with pytest.raises(ValueError, match="Out of range"):
        write_sealed(tmp_path / "b.json", {"x": float("nan")}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_cache_is_built_once_and_again_where_it_is_harmed(tmp_path, monkeypatch):
    built = []

    def build(folder):
        built.append(folder)
        make(folder)

    for _ in range(2):
        assert cached_folder(tmp_path / "cache" / "x", build) == tmp_path / "cache" / "x"
    assert len(built) == 1
    assert is_there(tmp_path / "cache" / "x")
    (tmp_path / "cache" / "x" / "inner" / "b.bin").unlink()
    assert not is_there(tmp_path / "cache" / "x")
    cached_folder(tmp_path / "cache" / "x", build)
    assert len(built) == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["x"]  # no scratch, nothing of the former one


@pytest.mark.parametrize("number", [13, 28, 30])
def test_a_cache_that_cannot_be_written_is_one_line(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(sealed, "settle", refuse)
    with pytest.raises(BadInput, match=f"cannot use the cache .*{os.strerror(number)}.*RANKADAPTOR_CACHE"):
        cached_folder(tmp_path / "cache" / "x", make)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_librarys_own_error_is_not_the_caches(tmp_path):
    def build(folder: Path):
        raise OSError("this is no tokenizer")

    with pytest.raises(OSError, match="no tokenizer"):
        cached_folder(tmp_path / "cache" / "x", build)
