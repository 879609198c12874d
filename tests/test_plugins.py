"""Modules that RANKADAPTOR_PLUGINS names are loaded, in worker processes too."""

import os
import sys

import pytest

from rankadaptor import files, plugins
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import PerplexitySpec
from rankadaptor.pipeline import ray_pool
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.pipeline.step import Step
from rankadaptor.plugins import load_plugins
from rankadaptor.profiles import load_profile

# Its steps have a spec of the package, so that reading a step does not import the plugin.
PLUGIN = """
import os
from rankadaptor.evaluation.spec import PerplexitySpec
from rankadaptor.pipeline.stages import register
from rankadaptor.pipeline.stages.stage import Stage

class Toy(Stage):
    name = "toy"
    spec_type = PerplexitySpec

    def revisions(self, inputs):
        return {}

    def compute(self, task):
        return {"digests": os.environ.get("RANKADAPTOR_DIGESTS", ""), "process": os.getpid()}

    def seconds(self, size, cost):
        return 1.0

register(Toy())
"""
STEP = Step("toy", PerplexitySpec())


@pytest.fixture
def toy_plugin(tmp_path, monkeypatch):
    """A module in a folder of its own, named by the environment and not imported yet."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "toy_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    monkeypatch.setenv(plugins.VARIABLE, "toy_plugin")
    yield
    STAGES.pop("toy", None)
    sys.modules.pop("toy_plugin", None)


def test_loading_a_profile_loads_plugins_once(toy_plugin, tiny_profile):
    assert "toy" not in STAGES
    load_profile(str(tiny_profile))
    stage = STAGES["toy"]
    assert load_plugins() == ("toy_plugin",)
    assert STAGES["toy"] is stage


@pytest.mark.slow
def test_a_local_worker_computes_a_stage_of_a_plugin(toy_plugin, tiny_profile, tmp_path, monkeypatch):
    monkeypatch.setenv(files.DIGESTS_VARIABLE, "")  # restored afterwards
    monkeypatch.setattr(files, "_SMALLEST_HANDED_DOWN", 0)
    profile, ledger = load_profile(str(tiny_profile)), Ledger(tmp_path / "ledger")
    with LocalPool(ledger, 1, 1) as pool:
        pool.submit(profile.inputs(), [STEP]).result(timeout=120)
    result = Runner(profile.inputs(), ledger).find(STEP).result["result"]
    assert result["process"] != os.getpid()
    assert f"{profile.base_model.source.location}/model.safetensors" in result["digests"]


def test_a_ray_task_computes_a_stage_of_a_plugin(toy_plugin, tiny_profile, tmp_path, monkeypatch):
    monkeypatch.delenv(plugins.VARIABLE)  # of a node: the task sets it
    inputs = load_profile(str(tiny_profile)).inputs()
    assert "toy" not in STAGES
    environment = {plugins.VARIABLE: "toy_plugin"}
    assert ray_pool._run(inputs, tmp_path / "ledger", [STEP], str(tmp_path), environment) == [STEP]


@pytest.mark.parametrize("separator", [",", " ", ", "])
def test_names_are_separated_by_commas_or_spaces(separator, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, separator.join(["json", "csv"]))
    assert load_plugins() == ("json", "csv")


def test_without_the_variable_nothing_is_loaded(monkeypatch):
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    assert load_plugins() == ()


def test_a_missing_module_is_one_line(tiny_profile, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "no_module_of_this_name")
    with pytest.raises(BadInput, match=r"plugin 'no_module_of_this_name' .* cannot be imported .*: install") as raised:
        load_profile(str(tiny_profile))
    assert "\n" not in str(raised.value)
