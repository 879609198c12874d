"""A method, a benchmark and a rival from outside the package, exactly as docs/extending.md shows them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.data import benchmark_row, sentence

from rankadaptor.data.tasks import TASKS

ROOT = Path(__file__).parents[1]
RUN = """
import sys

import numpy
import rankadaptor
from rankadaptor.reporting import tables
from rankadaptor.search.loop import search
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.settings import SearchSettings

if __name__ == "__main__":
    profile, folder = sys.argv[1:]
    table = rankadaptor.main_table(profile, "llm-pruner:50", table="dora", ledger=f"{folder}/ledger")
    result = table.run()
    tables.write_table(result, folder)
    pruned = result.blocks["llm-pruner:50"].architecture
    space = result.profile.solution_space(table.blocks[0], pruned)
    settings = SearchSettings(2, 3, 1, 10, 0.0, 2, 0)
    found = search(space, lambda allocations: [{"ranks": float(sum(ranks))} for ranks in allocations], settings,
                   proposer=RIVALS["largest first"])
    print(len(found.rounds), sum(found.best), max(map(sum, space.sample(300, numpy.random.default_rng(9)))))
"""


@pytest.mark.slow
def test_entries_from_outside_the_package_work(tiny_profile, tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[:3]
    (tmp_path / "my_methods.py").write_text("\n\n".join(blocks))
    for task in (*TASKS, "copa"):
        for split, start in (("train", 0), ("validation", 1000), ("test", 2000)):
            path = tmp_path / "benchmarks" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [copa_row(start + i) if task == "copa" else benchmark_row(task, start + i) for i in range(40)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = yaml.safe_load(Path(tiny_profile).read_text())
    content["evaluation"]["tasks"] = [*TASKS, "copa"]
    content["benchmarks"]["location"] = str(tmp_path / "benchmarks")
    (tmp_path / "eight.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "run.py").write_text(RUN)
    environment = os.environ | {"RANKADAPTOR_PLUGINS": "my_methods", "RANKADAPTOR_WORKERS": "2",
                                "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "eight.yaml"), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=220)
    assert ended.returncode == 0, ended.stderr[-3000:]
    table = (tmp_path / "dora.md").read_text()
    assert "DoRA" in table
    assert "COPA" in table
    specs = [json.loads(path.read_text()) for path in (tmp_path / "ledger").glob("*/spec.json")]
    assert {spec["spec"]["method"] for spec in specs if spec["stage"] == "recover"} == {"lora", "dora"}
    assert all("copa" in spec["spec"]["tasks"] for spec in specs if spec["stage"] == "evaluate")
    rounds, best, typical = map(int, ended.stdout.split()[-3:])
    assert rounds == 4
    assert best >= typical * 0.95


def copa_row(seed):
    """A row in the hub's schema."""
    return {"premise": sentence(seed, 8).capitalize() + ".", "choice1": sentence(seed + 1, 4).capitalize() + ".",
            "choice2": sentence(seed + 2, 4).capitalize() + ".", "question": ("cause", "effect")[seed % 2],
            "idx": seed, "label": seed // 2 % 2}
