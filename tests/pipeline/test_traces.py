"""A search goes on from the rounds of its trace that are as they were written, and ends where it would have ended."""

import json
import math

import pytest

from rankadaptor.errors import BadInput
from rankadaptor.experiments.main_table import main_table
from rankadaptor.keys import identity_key
from rankadaptor.pipeline import traces
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import verify
from rankadaptor.pipeline.traces import Trace
from rankadaptor.pipeline.trial_scores import trial_scores

BLOCK = "shortened:20"
IDENTITY = {"stage": "search", "number": 1}
KEY = identity_key(IDENTITY)


def without_seals(trace):
    for path in trace.glob("round-*.json"):
        content = json.loads(path.read_text())
        del content["seal"]
        path.write_text(json.dumps(content))


def change_a_score(trace, number):
    path = trace / f"round-00{number}.json"
    content = json.loads(path.read_text())
    scores = content["scores"][0]
    scores["piqa"] = math.nextafter(scores["piqa"], 1.0)  # the last digit
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("seals", "number", "rounds"), [
    ("sealed", None, None), ("sealed", 0, 0), ("sealed", 1, 1), ("unsealed", None, None), ("unsealed", 0, 0),
])
def test_a_search_ends_in_the_same_trace(seals, number, rounds, finished, finished_copy, tiny_profile, capsys):
    """Its rounds sealed or written by an earlier version, and one of them edited; no recovery is made again."""
    before = finished.result.blocks[BLOCK]
    trace = finished_copy / "searches" / before.search_key
    contents = {path.name: path.read_bytes() for path in trace.iterdir()}
    if seals == "unsealed":
        without_seals(trace)
    if number is not None:
        change_a_score(trace, number)
    table = main_table(str(tiny_profile), BLOCK, "quick", ledger=finished_copy)
    result = table.run()
    assert result.computed == ()
    assert result.blocks[BLOCK].search == before.search
    error = capsys.readouterr().err
    if number is None:
        assert "search" not in error
    else:
        assert f"search {before.search_key[:12]}: round-00{number}.json" in error
        assert {path.name: path.read_bytes() for path in trace.iterdir()} == contents  # all of them written anew
    assert verify(finished_copy) == []


def test_rounds_are_appended_in_order_and_read_again(tmp_path):
    trace = Trace(Ledger(tmp_path), KEY)
    assert trace.read(str) == []
    for value in (1.5, 2.5):
        trace.append(IDENTITY, {"value": value})
    again = Trace(Ledger(tmp_path), KEY)
    assert again.read(str) == [{"value": 1.5}, {"value": 2.5}]
    again.append(IDENTITY, {"value": 3.5})
    assert len(Trace(Ledger(tmp_path), KEY).read(str)) == 3
    assert json.loads((tmp_path / "searches" / KEY / "spec.json").read_text()) == IDENTITY


def test_a_round_with_a_number_that_is_none_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="holds a number that is not finite: choose another predictor"):
        Trace(Ledger(tmp_path), KEY).append(IDENTITY, {"predictions": [math.nan]})
    assert list(tmp_path.iterdir()) == []


def test_scores_of_trials_by_signal():
    metrics = {"piqa": {"acc": 0.5, "acc_norm": 0.6, "gold_probability": 0.7},
               "hellaswag": {"acc": 0.1, "acc_norm": 0.2, "gold_probability": 0.3}}
    tasks = ("piqa", "hellaswag")
    assert trial_scores({"metrics": metrics}, "gold_probability", tasks) == {"piqa": 0.7, "hellaswag": 0.3}
    assert trial_scores({"metrics": metrics}, "accuracy", tasks) == {"piqa": 0.5, "hellaswag": 0.2}
    assert trial_scores({"perplexity": math.e}, "held_out_loss", tasks) == {"text": -1.0}
    assert trial_scores({"diverged": "why"}, "accuracy", tasks) == {"piqa": 0.0, "hellaswag": 0.0}
    assert trial_scores({"diverged": "why"}, "held_out_loss", ()) == {"text": -20.0}


def test_a_round_that_cannot_be_read_is_left_there(tmp_path, monkeypatch):
    Trace(Ledger(tmp_path), KEY).append(IDENTITY, {"value": 1.5})
    before = (tmp_path / "searches" / KEY / "round-000.json").read_bytes()

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(traces, "read_with_seal", refuse)
        with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\): mend its rights"):
            Trace(Ledger(tmp_path), KEY).read(str)
        assert len(verify(tmp_path)) == 1
    assert (tmp_path / "searches" / KEY / "round-000.json").read_bytes() == before
    assert not (tmp_path / "damaged").exists()
