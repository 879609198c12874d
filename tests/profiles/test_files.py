"""YAML is read as PyYAML reads it, but for what would mislead."""

import pytest
import yaml

from rankadaptor.errors import BadInput
from rankadaptor.profiles import FOLDER, names
from rankadaptor.profiles.files import MOST_BYTES, read_yaml


@pytest.mark.parametrize("name", names())
def test_shipped_files_are_read_as_ever(name):
    path = FOLDER / f"{name}.yaml"
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", [
    "base: &a {x: 1, y: 2}\ndeep: {er: &b {<<: *a, x: 3}}\nlast: {<<: *b, y: 4}\n",  # merges override, in any order
    "a: &a [1, 2]\nb: [*a, *a]\n", "{}", "", "# nothing\n", "a: 0\nb: -0\nc: 0.5\nd: 00:30 and more\n", "t: '0100'",
    "n: 1_000\n", "\ufeffa: 1",
])
def test_what_is_clear_is_read_as_ever(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize("number", ["010", "-010", "0_1", "1:30", "190:20:30.15", "+1:00"])
def test_numbers_to_another_base_are_refused(number, tmp_path):
    (tmp_path / "a.yaml").write_text(f"n: {number}")
    with pytest.raises(BadInput, match="write it in plain decimals"):
        read_yaml(tmp_path / "a.yaml")


def test_a_file_may_have_256_kib_and_no_byte_more(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1 #".ljust(MOST_BYTES))
    assert read_yaml(path) == {"a": 1}
    path.write_text("a: 1 #".ljust(MOST_BYTES + 1))
    with pytest.raises(BadInput, match="more than 256 KiB"):
        read_yaml(path)


def test_a_file_that_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*nowhere\.yaml' \(No such file or directory\)"):
        read_yaml(tmp_path / "nowhere.yaml")
