"""Digests are computed once a run, and the cache folder is where it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankadaptor import files
from rankadaptor.files import DIGESTS_VARIABLE, cache_folder, file_digest, hand_down_digests, sha256_file

MEGABYTE = 2**20
CHILD = """
import sys
from pathlib import Path
from rankadaptor import files

reads, plain = [], files.sha256_file
files.sha256_file = lambda path: reads.append(path) or plain(path)
weights = Path(sys.argv[1])
print(files.file_digest(weights), len(reads))
weights.write_bytes(b"b" * 2**20)
print(files.file_digest(weights), len(reads))
"""


@pytest.fixture
def reads(monkeypatch):
    """Paths of files that this process reads for their digest."""
    paths = []
    monkeypatch.setattr(files, "_computed_digests", {})
    monkeypatch.setattr(files, "sha256_file", lambda path: paths.append(path) or sha256_file(path))
    monkeypatch.delenv(DIGESTS_VARIABLE, raising=False)
    return paths


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * MEGABYTE)
    return path


def test_a_file_is_read_once_until_it_changes(weights, reads):
    first = file_digest(weights)
    assert file_digest(weights) == first == sha256_file(weights)
    assert len(reads) == 1
    weights.write_bytes(b"b" * MEGABYTE)
    os.utime(weights, ns=(1, 1))
    assert file_digest(weights) == sha256_file(weights) != first
    assert len(reads) == 2


def test_a_child_process_reads_a_file_only_if_it_changed(weights, reads, monkeypatch):
    digest = file_digest(weights)
    monkeypatch.setenv(DIGESTS_VARIABLE, "")  # restored afterwards
    hand_down_digests()
    done = subprocess.run([sys.executable, "-c", CHILD, str(weights)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{digest} 0", f"{sha256_file(weights)} 1"]


@pytest.mark.parametrize("field", [0, 1, 2])  # modification time, size, inode
def test_an_inherited_digest_needs_the_same_file(field, weights, reads, monkeypatch):
    status = weights.stat()
    content = [status.st_mtime_ns, status.st_size, status.st_ino, "inherited"]
    monkeypatch.setenv(DIGESTS_VARIABLE, json.dumps({str(weights): content}))
    assert file_digest(weights) == "inherited"
    content[field] += 1
    monkeypatch.setenv(DIGESTS_VARIABLE, json.dumps({str(weights): content}))
    assert file_digest(weights) == sha256_file(weights)


def test_digests_are_handed_down_over_generations_and_stay_few(weights, reads, monkeypatch):
    status = weights.stat()
    inherited = {str(weights): [status.st_mtime_ns, status.st_size, status.st_ino, "inherited"]}
    monkeypatch.setenv(DIGESTS_VARIABLE, json.dumps(inherited))
    small = weights.with_name("config.json")
    small.write_text("{}")
    for number in range(300):
        files._computed_digests[f"/shard-{number}"] = (0, MEGABYTE + number % 2, 0, "0" * 64)
    file_digest(small)
    files._computed_digests[f"{weights}-large"] = (0, 2 * MEGABYTE, 0, "0" * 64)
    hand_down_digests()
    text = os.environ[DIGESTS_VARIABLE]
    assert f"{weights}-large" in text
    assert str(small) not in text
    assert len(text) < 128 * 1024
    for number in range(300):
        del files._computed_digests[f"/shard-{number}"]
    monkeypatch.setenv(DIGESTS_VARIABLE, json.dumps(inherited))
    hand_down_digests()
    assert json.loads(os.environ[DIGESTS_VARIABLE])[str(weights)] == inherited[str(weights)]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"x": 3}', '{"x": [1, 2, 3]}', '{"x": ["a", 2, 3, "b"]}'])
def test_useless_inherited_digests_are_ignored(text, weights, reads, monkeypatch):
    monkeypatch.setenv(DIGESTS_VARIABLE, text)
    assert file_digest(weights) == sha256_file(weights)


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("RANKADAPTOR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/rankadaptor")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast/cache")
    assert cache_folder() == Path("/fast/cache/rankadaptor")
    monkeypatch.setenv("RANKADAPTOR_CACHE", "/big/disk")
    assert cache_folder() == Path("/big/disk")
