"""The check of a GPU machine: it tells a machine without one, a wrong engine, a slow card and one that is too small."""

import pytest
import torch

from rankadaptor.__main__ import main
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import gpu_check
from rankadaptor.reporting.gpu_check import Check, check_table

PROFILE = load_profile("llama-7b")
CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_machine_without_a_gpu_is_told(tmp_path, capsys):
    assert main(["check-gpu", "--no-stages", "--out", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    results = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[1:]}
    assert results.pop("GPU") == "FAIL"
    assert set(results.values()) == {"pass"}
    assert len(results) == 6


def test_a_wrong_engine_fails(monkeypatch):
    assert gpu_check._scores(CPU, torch.float32).passed
    right = gpu_check.score

    def wrong(*arguments):
        scores, greedy = right(*arguments)
        return scores + 0.01, greedy

    monkeypatch.setattr(gpu_check, "score", wrong)
    assert not gpu_check._scores(CPU, torch.float32).passed


class Card:
    name = "a card"

    def __init__(self, gigabytes):
        self.total_memory = gigabytes * 10**9


@pytest.mark.parametrize(("gigabytes", "passed"), [(24, False), (80, True), (141, True)])
def test_a_card_has_the_profiles_memory(gigabytes, passed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card(gigabytes))
    assert gpu_check._card(PROFILE) == Check("GPU", f"a card, {gigabytes} GB", "80 GB", passed)


@pytest.mark.parametrize(("speed", "on_gpu", "passed"), [(13_000, True, True), (4_500, True, True),
                                                         (4_400, True, False), (4, False, True)])
def test_a_card_is_as_fast_as_a_third_of_the_plan(speed, on_gpu, passed):
    planned = gpu_check.ROW_TOKENS / PROFILE.cost.recovery_seconds_per_row
    assert round(planned, -2) == 13_400  # tokens a second of the record that the profile names
    assert gpu_check._rate("recovery", speed, "tokens", planned, on_gpu).passed == passed


def test_memory_that_is_not_there_fails_a_check(monkeypatch):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert gpu_check._within_memory("recovery", full) == [
        Check("recovery", "CUDA out of memory", "fits into memory", False)]
    monkeypatch.setattr(gpu_check, "peak_memory_bytes", lambda: 90 * 10**9)
    assert not gpu_check._memory(PROFILE, True).passed
    assert gpu_check._memory(PROFILE, False).passed


def test_stages_are_those_of_a_rehearsal(tmp_path, monkeypatch):
    calls = []

    def rehearsal(name, out, full_size, blocks):
        calls.append((name, out, full_size, blocks))
        (out / "rehearsal.md").touch()
        return out / "rehearsal.md"

    monkeypatch.setattr(gpu_check, "rehearse", rehearsal)
    assert gpu_check._stages(PROFILE, tmp_path, CPU).passed
    assert gpu_check._stages(PROFILE, tmp_path, torch.device("cuda")).passed
    assert calls == [("llama-7b", tmp_path, size, "llm-pruner:20") for size in (False, True)]


def test_the_table_counts_failures():
    text = check_table([Check("a", "1", "2", True), Check("b", "3", "4", False)])
    assert "| b       | 3          | 4          | FAIL |" in text
    assert text.endswith(": 1 of 2 checks failed")
    assert check_table([Check("a", "1", "2", True)]).endswith(": all 1 checks passed")


def test_a_profile_without_published_shapes_is_refused(capsys):
    assert main(["check-gpu", "--profile", "tiny"]) == 2
    assert "no shapes of 'tiny'" in capsys.readouterr().err
