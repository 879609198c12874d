"""Nothing that is read can run: a pickle that is planted anywhere stays shut, and no option lets code in."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.experiments import main_table as experiments
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.gate import check_weights, read_architecture
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import load_profile
from rankadaptor.recovery.adapters import attach_adapter, load_adapter, save_adapter
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec

PACKAGE = Path(__file__).parents[1] / "rankadaptor"
RECIPE = Recipe(8, 4, 4, 1e-3, 1, 64, 0.0, 0.0, 1.0)


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """Planted pickles leave it; nothing else does."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Trap(path)))
    assert path.exists()  # the trap works
    path.unlink()
    return path


def plant(mark: Path, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(Trap(mark)))


@pytest.fixture
def model(tmp_path, tiny_profile):
    folder = tmp_path / "model"
    shutil.copytree(load_profile(str(tiny_profile)).base_model.source.location, folder)
    return folder


NAMES = ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "training_args.bin", "optimizer.pt")


def test_pickles_beside_a_model_stay_shut(model, mark):
    plant(mark, *(model / name for name in NAMES))
    load_model(model)
    assert not mark.exists()


@pytest.mark.parametrize("command", [["measure"], ["evaluate"], ["prune", "--ratio", "0.5", "--calibration", "x",
                                                                "--out", "out"]])
def test_a_model_of_pickles_alone_is_refused(command, model, mark, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (model / "model.safetensors").unlink()
    plant(mark, *(model / name for name in NAMES))
    Path("x").write_text("some text to calibrate on\n\nand more")
    assert main([command[0], str(model), *command[1:]]) == 2
    error = capsys.readouterr().err
    assert "no safetensors files in" in error
    assert error.count("\n") == 1
    with pytest.raises(BadInput, match="convert them"):
        check_weights(model, read_architecture(model))
    assert not mark.exists()


def test_pickles_of_an_adapter_are_never_opened(model, mark, tmp_path):
    loaded = load_model(model)
    adapted = attach_adapter(loaded, RecoverySpec("lora", (4,) * 6, "constant", 16, RECIPE, 0))
    save_adapter(adapted, tmp_path / "adapter")
    plant(mark, tmp_path / "adapter" / "adapter_model.bin", tmp_path / "adapter" / "optimizer.pt")
    load_adapter(load_model(model), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no adapter_model\.safetensors"):
        load_adapter(load_model(model), tmp_path / "adapter")
    assert not mark.exists()


@pytest.fixture(scope="module")
def pruned_models_ledger(tiny_profile, tmp_path_factory):
    """A finished Table 6, to copy."""
    ledger = tmp_path_factory.mktemp("table6") / "ledger"
    experiments.main_table(str(tiny_profile), "shortened:20", "quick", ledger=ledger, table="table6").run()
    return ledger


@pytest.mark.parametrize("name", ["result.json", "spec.json", "checksums.json", "items.parquet"])
def test_a_ledger_with_pickles_in_it_is_damaged_and_no_more(name, mark, pruned_models_ledger, tiny_profile, tmp_path):
    shutil.copytree(pruned_models_ledger, tmp_path / "ledger")
    planted = [path for path in (tmp_path / "ledger").rglob(name) if "damaged" not in path.parts]
    assert planted
    plant(mark, *planted)
    again = experiments.main_table(str(tiny_profile), "shortened:20", "quick", ledger=tmp_path / "ledger",
                                   table="table6").run()
    assert len(again.computed) >= len(planted) > 0
    assert not mark.exists()


def test_pickles_in_place_of_data_are_told(mark, tmp_path, tiny_profile):
    rows, profile = tmp_path / "rows.jsonl", tmp_path / "profile.yaml"
    plant(mark, rows, profile)
    for given in ({"profile": str(tiny_profile), "recovery_data": str(rows)}, {"profile": str(profile)}):
        with pytest.raises(BadInput, match=r"mend|convert it"):
            experiments.main_table(blocks="shortened:20", ledger=tmp_path / "ledger", table="table1", **given).run()
    assert not mark.exists()


def calls():
    """(file, name of what is called, call) of the whole package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path, ast.unparse(node.func), node


def test_no_call_could_run_what_is_read():
    closed = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pickle.load",
              "pickle.loads", "np.load", "numpy.load", "joblib.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load",
              "yaml.full_load", "shelve.open", "torch.hub.load"}
    assert [(path.name, name) for path, name, _ in calls() if name in closed] == [
        ("pickled_weights.py", "torch.load")]  # the conversion's, in a process of its own


def test_no_call_trusts_remote_code_or_a_shell():
    for path, name, call in calls():
        for keyword in call.keywords:
            if keyword.arg in ("trust_remote_code", "shell", "weights_only", "allow_pickle"):
                safe = "True" if keyword.arg == "weights_only" else "False"
                assert ast.unparse(keyword.value) == safe, (path, name, keyword.arg)
        if name == "torch.load":
            assert "weights_only" in {keyword.arg for keyword in call.keywords}


def test_secrets_of_the_environment_are_in_no_record(tiny_profile, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "RAY_ADDRESS_PASSWORD"):
        monkeypatch.setenv(name, "hf_sesame-open-1234")
    table = experiments.main_table(str(tiny_profile), "shortened:20", "quick", ledger=tmp_path / "ledger",
                                   table="table6")
    result = table.run()
    from rankadaptor.reporting.tables import write_provenance

    write_provenance(result, Ledger(tmp_path / "ledger"), tmp_path)
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert texts
    assert not any(b"sesame" in text for text in texts)
    assert str(Path.home()) not in json.dumps(json.loads((tmp_path / "table6-provenance.json").read_text())["machines"])


def test_half_precision_keeps_adalora_as_it_was_saved(model, tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        spec = RecoverySpec("adalora", (4,) * 6, "fixed_alpha", 16, RECIPE, 0, adalora_init_rank=6)
        adapted = attach_adapter(load_model(model).to(dtype), spec)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_E" in name:
                    parameter.normal_()
        save_adapter(adapted, tmp_path / str(dtype))
        load_adapter(load_model(model).to(dtype), tmp_path / str(dtype))  # raises on any tensor that is another
