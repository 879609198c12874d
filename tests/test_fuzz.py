"""Whatever a parser is given, it reads it or tells in one line why not."""

import json
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankadaptor.allocation import parse_allocation
from rankadaptor.data.instruction_rows import _read_instructions
from rankadaptor.errors import BadInput
from rankadaptor.experiments.parameters import number_range, whole_numbers
from rankadaptor.experiments.search_files import ALLOCATION_FILE, read_search
from rankadaptor.keys import identity_key
from rankadaptor.models.gate import check_llama
from rankadaptor.pipeline.leases import read_holder
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import FOLDER, load_profile
from rankadaptor.pruning.spec import Block

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
NEARLY = st.text(alphabet=string.digits + " ,:-.llm-prunershortend²٣\n", max_size=24)


def reads_or_tells(read):
    """Returns what was read, None where it was told why not."""
    try:
        return read()
    except BadInput as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) > 10
    return None


@QUICK
@given(NEARLY | st.text(max_size=30))
def test_words_of_the_command_line(text):
    block = reads_or_tells(lambda: Block.parse(text))
    assert block is None or str(Block.parse(str(block))) == str(block)
    ranks = reads_or_tells(lambda: parse_allocation(text))
    assert ranks is None or parse_allocation(" ".join(map(str, ranks))) == ranks
    reads_or_tells(lambda: number_range(text))
    reads_or_tells(lambda: whole_numbers("seeds", text))


@QUICK
@given(data=st.data(), value=JSON)
@pytest.mark.slow
def test_profiles_with_anything_anywhere(data, value, tmp_path):
    content = yaml.safe_load((FOLDER / "tiny.yaml").read_text())
    place = content
    while True:
        name = data.draw(st.sampled_from(sorted(place, key=str)))
        if not isinstance(place[name], dict) or not place[name] or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    profile = reads_or_tells(lambda: load_profile(str(tmp_path / "mine.yaml")))
    if profile is not None:
        reads_or_tells(lambda: [profile.prune_spec(block) for block in profile.blocks()])


@QUICK
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_profiles_of_any_bytes(content):
    path = Path("mine.yaml")
    path.write_bytes(content)
    assert reads_or_tells(lambda: load_profile(str(path))) is None


@QUICK
@given(st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode))
def test_files_of_rows_holders_models_and_traces(content):
    Path("rows.jsonl").write_bytes(content)
    for row in reads_or_tells(lambda: list(_read_instructions(Path("rows.jsonl")))) or []:
        assert set(row) == {"instruction", "input", "output"}
    Path("rows.json").write_bytes(content)
    reads_or_tells(lambda: list(_read_instructions(Path("rows.json"))))
    Path("model").mkdir(exist_ok=True)
    Path("model/config.json").write_bytes(content)
    assert reads_or_tells(lambda: check_llama(Path("model"))) is None
    Path("lease").write_bytes(content)
    read_holder(Path("lease"))
    Path("found").mkdir(exist_ok=True)
    Path("found", ALLOCATION_FILE).write_bytes(content)
    reads_or_tells(lambda: read_search(Path("found")))


@QUICK
@given(name=st.sampled_from(["spec.json", "result.json", "checksums.json", "array.bin"]),
       content=st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode))
def test_an_entry_of_any_bytes_is_unchanged_or_set_aside(name, content, tmp_path):
    spec = {"stage": "toy"}
    key = identity_key(spec)
    ledger = tmp_path / str(len(list(tmp_path.iterdir())))

    def work(folder):
        (folder / "array.bin").write_bytes(b"x")
        return {"stage": "toy", "result": {"value": 1}, "provenance": {}}

    entry, _ = Ledger(ledger).compute(key, spec, work)
    as_it_was = entry.path(name).read_bytes()
    entry.path(name).write_bytes(content)
    found = Ledger(ledger).find(key)
    assert (found is None) == (content != as_it_was)
    again, _ = Ledger(ledger).compute(key, spec, work)
    assert again.result["result"] == {"value": 1}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
