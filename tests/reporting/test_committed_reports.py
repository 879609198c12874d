"""The committed reports of this repository: each stands on committed records, and is drawn from them byte for byte."""

import json
from pathlib import Path

import pytest

from rankadaptor.pipeline.records import FILES, ITEMS, RESULTS, ROUNDS, read_table, unpack_records
from rankadaptor.profiles import names
from rankadaptor.reporting import pages
from rankadaptor.reporting.committed import committed_pages

ROOT = Path(__file__).parents[2]
PROFILES = [name for name in names() if (ROOT / "records" / name / RESULTS).is_file()]
MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """Profile -> a ledger of its committed records."""
    folder = tmp_path_factory.mktemp("committed")
    return {name: unpack_records(ROOT / "records" / name, folder / name) for name in PROFILES}


def test_profiles_have_committed_records():
    assert {"tiny", "smollm2"} <= set(PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_key_behind_a_committed_report_is_recorded(profile):
    recorded = set(read_table(ROOT / "records" / profile, RESULTS)["key"])
    files = sorted((ROOT / "reports" / profile).glob("*-provenance.json"))
    assert bool(files) == bool(committed_pages(profile))
    for path in files:
        keys = {key for group in json.loads(path.read_text())["ledger_keys"].values() for key in group}
        assert keys <= recorded, path.name


@pytest.mark.parametrize("profile", PROFILES)
def test_committed_pages_need_nothing_computed(profile, ledgers):
    listed = committed_pages(profile)
    for name, options in listed.items():
        plan = pages.plan(name, options | {"profile": profile, "ledger": str(ledgers[profile].folder)})
        assert not plan.missing, name
    shown = {f"{page.notebook}{page.suffix}.ipynb" for name, page in pages.PAGES.items() if name in listed}
    assert {path.name for path in (ROOT / "reports" / profile).glob("*.ipynb")} == shown


@pytest.mark.parametrize("profile", PROFILES)
def test_records_stay_small(profile):
    sizes = [(ROOT / "records" / profile / name).stat().st_size for name in (RESULTS, ITEMS, ROUNDS, FILES)]
    assert max(sizes) < MOST_BYTES


@pytest.mark.slow
@pytest.mark.usefixtures("warm_kernel")
def test_a_committed_page_is_drawn_again_byte_for_byte(ledgers, tmp_path):
    given = committed_pages("tiny")["figure2"] | {"profile": "tiny", "ledger": str(ledgers["tiny"].folder)}
    pages.reproduce("figure2", given, tmp_path, quiet=True)
    # Figures are left to `make reports`, after which git shows no change: a test's kernel sizes them differently.
    drawn = sorted(path for path in tmp_path.iterdir() if path.suffix in (".md", ".csv", ".tex", ".json"))
    assert len(drawn) == 7
    for path in drawn:
        assert path.read_bytes() == (ROOT / "reports" / "tiny" / path.name).read_bytes(), path.name
