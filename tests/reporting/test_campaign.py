"""Campaigns: in order, within their time, recorded, and nothing twice."""

import pytest

from rankadaptor.errors import BadInput
from rankadaptor.experiments import paths
from rankadaptor.pipeline.records import RESULTS, read_table
from rankadaptor.reporting.campaign import campaign_items, work_off

NAME = "test"  # of the tiny profile
CAMPAIGN = """
- {page: headroom, blocks: 'shortened:20', budget: quick, why: the gate}
- {page: headroom, blocks: 'shortened:20', budget: quick, seeds: '0 1', why: another training}
"""


@pytest.fixture
def records(empty_project):
    """The empty folder of records in a project of its own."""
    folder = paths.records_folder(NAME)
    folder.mkdir(parents=True)
    return folder


def run(profile, folder, hours=1.0):
    lines = []
    states = work_off(str(profile), hours, folder, lines.append)
    return states, lines


def stages(folder):
    return sorted(path.name for path in folder.iterdir() if len(path.name) == 64)


def test_a_campaign_records_and_goes_on_where_it_ended(records, tiny_profile, tmp_path):
    (records / "campaign.yaml").write_text(CAMPAIGN)
    states, lines = run(tiny_profile, tmp_path / "first", hours=0.0)  # no stage ends in no time
    assert [state.left for state in states] == [3, 4]
    assert "the time is over: the next call goes on from here" in lines
    assert not (records / RESULTS).exists()

    states, lines = run(tiny_profile, tmp_path / "first")
    assert [(state.done, state.left) for state in states] == [(3, 0), (4, 0)]
    assert [line.split(":")[0] for line in lines if line.startswith("-- ")] == [
        "-- headroom blocks=shortened", "-- headroom blocks=shortened"]
    assert any(line.startswith("computed so far, in all") for line in lines)
    recorded = read_table(records, RESULTS)["stage"].value_counts().to_dict()
    assert recorded == {"evaluate": 4, "recover": 2} | ({"prune": 1} if "prune" in recorded else {})
    before = (records / RESULTS).read_bytes()

    states, lines = run(tiny_profile, tmp_path / "second")  # another machine, which has the records alone
    assert [state.left for state in states] == [0, 0]
    assert not [line for line in lines if line.startswith("-- ")]
    assert (records / RESULTS).read_bytes() == before
    assert len(stages(tmp_path / "second")) == 4 + 1  # evaluations, and the pruned model, which is no record


@pytest.mark.parametrize(("text", "message"), [
    (None, "no campaign .*: write one"),
    ("page: headroom", "is no list"), ("- {page: headroom}", "is no list"), ("- [", "is no list"),
    ("- {page: headrom, why: x}", "unknown page 'headrom'.*did you mean headroom"),
    ("- {page: headroom, why: x, block: y}", "unknown option of headroom 'block'.*did you mean blocks"),
])
def test_a_campaign_that_is_none_is_refused(text, message, records, tiny_profile):
    if text is not None:
        (records / "campaign.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        campaign_items(str(tiny_profile))


def test_only_tables_over_blocks_are_worked_off(records, tiny_profile, tmp_path):
    (records / "campaign.yaml").write_text("- {page: pruning, why: x}")
    with pytest.raises(BadInput, match="pruning is no table over blocks"):
        run(tiny_profile, tmp_path / "ledger")


def test_every_committed_campaign_can_be_read():
    items = campaign_items("smollm2")
    assert all(item.why for item in items)
