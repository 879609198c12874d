"""Committed pages come from committed records, and nothing is computed for them."""

import pytest
from helpers.finished import FINISHED_BLOCKS

from rankadaptor.errors import BadInput
from rankadaptor.experiments import paths
from rankadaptor.pipeline.records import RESULTS, is_unpacked
from rankadaptor.reporting.committed import committed_pages, compare, render, unpacked, write_profile_records
from rankadaptor.reporting.notebooks import conclusion_of

NAME = "test"  # of the tiny profile
TABLE = f"table2: {{budget: quick, blocks: '{FINISHED_BLOCKS}'}}\n"


@pytest.fixture
def recorded(empty_project, finished, tiny_profile):
    """The finished table, recorded and committed as Table 2."""
    folder = write_profile_records(str(tiny_profile), finished.ledger)
    (folder / "pages.yaml").write_text(TABLE)
    return folder


@pytest.mark.usefixtures("warm_kernel")
def test_committed_pages_are_drawn_from_records_alone(recorded, empty_project, tiny_profile):
    drawn = []
    page = render(str(tiny_profile), empty_project / "reports", lambda name, executed: drawn.append((name, executed)))
    assert drawn == [("table2", empty_project / "reports" / NAME / "03_main_tables.ipynb")]
    assert page == empty_project / "reports" / NAME / "index.html"
    first = (page.parent / "table2.md").read_bytes()
    for block in FINISHED_BLOCKS.split():
        assert f"| {block} ".encode() in first
    render(str(tiny_profile), empty_project / "reports", lambda *_: None)
    assert (page.parent / "table2.md").read_bytes() == first
    assert len(list((empty_project / "build" / "records").iterdir())) == 1  # unpacked once
    assert conclusion_of(drawn[0][1]).endswith("\ndrawn from the committed records: nothing was computed\n")
    assert not [path for path in page.parent.iterdir() if path.is_dir()]  # runs go there


def test_a_page_that_the_records_lack_is_named(recorded, empty_project, tiny_profile):
    (recorded / "pages.yaml").write_text(TABLE + "table6: {budget: quick, blocks: 'shortened:50'}\n")
    with pytest.raises(BadInput, match=r"lack \d+ results of table6"):
        render(str(tiny_profile), empty_project / "reports", lambda *_: None)
    assert not (empty_project / "reports").exists()


@pytest.mark.parametrize(("text", "message"), [
    ("[table2]", "no mapping"), ("table2: quick", "no mapping"), ("table2: {budget: [", "no mapping"),
    ("tabel2: {}", r"unknown page 'tabel2'.*did you mean table2"),
    ("table2: {budgets: quick}", r"unknown option of table2 'budgets'.*did you mean budget"),
])
def test_a_list_of_pages_that_is_none_is_refused(text, message, empty_project, tiny_profile):
    (paths.records_folder(NAME)).mkdir(parents=True)
    (paths.records_folder(NAME) / "pages.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        committed_pages(str(tiny_profile))


def test_without_records_nothing_is_committed(empty_project, finished, tiny_profile):
    assert committed_pages(str(tiny_profile)) == {}
    assert compare(str(tiny_profile), finished.ledger) is None
    with pytest.raises(BadInput, match="is committed: compute one"):
        render(str(tiny_profile), empty_project / "reports", lambda *_: None)


def test_a_ledger_without_results_is_not_recorded(empty_project, tiny_profile, tmp_path):
    with pytest.raises(BadInput, match="holds no result of"):
        write_profile_records(str(tiny_profile), tmp_path / "ledger")


def test_a_ledger_is_compared_with_the_committed_records(recorded, finished, tiny_profile):
    comparison = compare(str(tiny_profile), finished.ledger)
    assert comparison.compared == comparison.equal > 0


def test_records_that_changed_are_unpacked_anew(recorded, empty_project):
    first = unpacked(NAME).folder
    assert is_unpacked(unpacked(NAME))
    assert not unpacked(NAME).strangers()
    (recorded / RESULTS).touch()
    assert unpacked(NAME).folder == first
    (recorded / "rounds.parquet").write_bytes((recorded / "rounds.parquet").read_bytes() + b" ")
    with pytest.raises(BadInput, match="restore"):
        unpacked(NAME)
