"""Steps computed by several processes, here and by Ray: the same results, whatever finishes first."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.finished import FINISHED_BLOCKS

from rankadaptor.errors import BadInput
from rankadaptor.experiments import main_table as experiments
from rankadaptor.experiments.skeleton import Run
from rankadaptor.pipeline import execution, failures, local_pool, ray_pool
from rankadaptor.pipeline import runner as runner_module
from rankadaptor.pipeline.execution import execution_from_environment, follow, groups_of
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.stages import prune as prune_stage
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.reporting import tables


def contents(ledger: Path) -> dict[str, object]:
    """Every file of entries and traces, times and provenance apart."""
    files: dict[str, object] = {}
    for path in ledger.rglob("*"):
        name = path.relative_to(ledger)
        if path.is_file() and not name.parts[0].startswith(".") and name.name != "checksums.json":
            data = path.read_bytes()
            files[str(name)] = json.loads(data)["result"] if name.name == "result.json" else data
    return files


@pytest.mark.timeout(600)  # each of Ray's workers loads torch anew, and takes a minute where cores are shared
@pytest.mark.parametrize(("executor", "workers"), [("local", 4), pytest.param("ray", 2, marks=pytest.mark.ray)])
def test_many_workers_compute_what_one_does(executor, workers, finished, tiny_profile, tmp_path, monkeypatch):
    monkeypatch.setenv("RANKADAPTOR_EXECUTOR", executor)
    monkeypatch.setenv("RANKADAPTOR_WORKERS", str(workers))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    take = LocalPool._next

    def last_first(self, model):
        self._waiting.reverse()
        return take(self, "")

    monkeypatch.setattr(LocalPool, "_next", last_first)
    table = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=tmp_path / "ledger")
    shared = table.run()
    assert sorted(shared.computed) == sorted(finished.result.computed)
    assert tables.cells(shared).equals(tables.cells(finished.result))
    assert [b.search for b in shared.blocks.values()] == [b.search for b in finished.result.blocks.values()]
    assert contents(tmp_path / "ledger") == contents(finished.ledger)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("EXECUTOR", "slurm", "unknown executor 'slurm': use one of local, ray"),
    ("WORKERS", "0", "workers is '0': give a whole number from 1"),
    ("WORKERS", "two", "workers is 'two': give a whole number from 1"),
    ("WORKERS", "-1", "workers is '-1'"),
])
def test_an_unknown_execution_is_refused(name, value, message, tiny_profile, monkeypatch):
    monkeypatch.setenv(f"RANKADAPTOR_{name}", value)
    with pytest.raises(BadInput, match=message):
        execution_from_environment(load_profile(str(tiny_profile)).workers)


def test_a_profile_sets_the_default_execution(tiny_profile, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "usable_cores", lambda: 64)
    content = yaml.safe_load(Path(tiny_profile).read_text())
    for workers, cards, count in ((1, 0, 1), (3, 0, 3), (1, 8, 8), (3, 1, 3)):
        monkeypatch.setattr(execution.torch.cuda, "device_count", lambda cards=cards: cards)
        (tmp_path / "w.yaml").write_text(yaml.safe_dump(content | {"workers": workers}))
        assert execution_from_environment(load_profile(str(tmp_path / "w.yaml")).workers) == ("local", count)


def test_steps_that_wait_for_one_stage_are_one_group(tiny_profile, tmp_path):
    table = experiments.main_table(str(tiny_profile), "shortened:20", "quick", ledger=tmp_path, table="figure5")
    profile = table.profile
    pruned = Step("prune", profile.prune_spec(Block("shortened", 20)))
    specs = [profile.lora_spec(table.budget, (8,) * 6, 1e-3, seed) for seed in (0, 1)]
    runner = Runner(profile.inputs(), Ledger(tmp_path))
    batch = [step for spec in specs for step in (
        Step("evaluate", profile.evaluation_spec(table.budget, "report"), Step("recover", spec, pruned)),
        Step("generate", profile.evaluation.generation, Step("recover", spec, pruned)))]
    assert [len(group) for group in groups_of(runner, batch)] == [4]  # nothing is pruned yet
    runner.run(pruned)
    assert groups_of(runner, batch) == [batch[:2], batch[2:]]
    assert groups_of(runner, [pruned]) == []


class Pool:
    """Fails, or computes nothing, in this process."""

    def __init__(self, error=None):
        self.error, self.closed, self.groups = error, False, []

    def submit(self, inputs, group):
        future = execution.Future()
        self.groups.append(group)
        if self.error is None:
            run = Runner(inputs, Ledger(self.ledger))
            execution.run_group(run, group)
            future.set_result(None)
        else:
            future.set_exception(self.error)
        return future

    def close(self):
        self.closed = True


def test_an_error_ends_all_pieces_of_work(tiny_profile, tmp_path):
    table = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=tmp_path / "ledger")
    pool = Pool(BadInput("broken"))
    with pytest.raises(BadInput, match="broken"):
        follow(table.parts(), pool, 3)
    assert pool.closed


def test_a_failure_ends_its_part_and_no_other(tiny_profile, tmp_path):
    table = experiments.main_table(
        str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=tmp_path / "ledger", table="table6")
    first = Step("prune", table.profile.prune_spec(Block.parse("llm-pruner:50")))
    runner = Runner(table.profile.inputs(), table.ledger)
    for _ in range(3):
        failures.note(table.ledger, runner.key(first), "prune", "killed", "signal 9")
    pool = Pool()
    pool.ledger = table.ledger.folder
    follow(table.parts(), pool, 1)
    assert not pool.closed
    result = table.run()
    assert set(result.unfinished) == {"llm-pruner:50"}
    assert result.blocks["shortened:20"].rows


@pytest.mark.slow
def test_a_closed_pool_takes_and_keeps_nothing(tiny_profile, tmp_path):
    profile, ledger = load_profile(str(tiny_profile)), Ledger(tmp_path / "ledger")
    step = Step("prune", profile.prune_spec(Block("shortened", 20)))
    before = multiprocessing.active_children()  # of other tests
    pool = LocalPool(ledger, 1, 1)
    with ledger.exclusive(Runner(profile.inputs(), ledger).key(step)):  # else it may finish before the pool is closed
        running = pool.submit(profile.inputs(), [step])
        waiting = pool.submit(profile.inputs(), [step])
        pool.close()
        for future in (running, waiting):
            with pytest.raises(BadInput, match="the run was ended"):
                future.result(timeout=60)
    with pytest.raises(BadInput, match="the run was ended"):
        pool.submit(profile.inputs(), [step])
    assert multiprocessing.active_children() == before


def test_a_closed_pool_ignores_a_worker_that_never_pauses(tiny_profile, tmp_path):
    profile = load_profile(str(tiny_profile))
    step = Step("prune", profile.prune_spec(Block("shortened", 20)))
    pool = LocalPool(Ledger(tmp_path / "ledger"), 1, 1)
    here, worker_end = multiprocessing.Pipe()
    for share in (0.1, 0.2, 0.3):
        worker_end.send((step, share))
    messages = pool._messages(SimpleNamespace(pipe=here), SimpleNamespace(inputs=profile.inputs(), group=[step]))
    assert next(messages) == (step, 0.1)
    pool.close()
    with pytest.raises(BadInput, match="the run was ended"):
        next(messages)


def _interrupted(profile: str, ledger: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    os.environ["RANKADAPTOR_WORKERS"] = "2"
    experiments.main_table(profile, FINISHED_BLOCKS, "quick", ledger=ledger).run()


def test_an_interrupt_ends_the_workers_and_a_new_run_goes_on(tiny_profile, tmp_path, monkeypatch, finished):
    """What the stop button of a notebook does."""
    ledger = tmp_path / "ledger"
    process = multiprocessing.get_context("spawn").Process(target=_interrupted, args=(str(tiny_profile), ledger))
    process.start()
    deadline = time.monotonic() + 120
    while len(Ledger(ledger).entries()) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode not in (None, 0)
    survivors = {path.name: path.stat().st_mtime_ns for path in ledger.iterdir() if len(path.name) == 64}
    assert survivors
    time.sleep(1)
    assert set(survivors) == {entry.key for entry in Ledger(ledger).entries()}  # nobody works on
    result = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=ledger).run()
    assert not {key for _, key in result.computed} & set(survivors)
    assert contents(ledger) == contents(finished.ledger)


@pytest.mark.slow
def test_a_hanging_worker_is_killed_and_its_stage_retried(tiny_profile, tmp_path, monkeypatch):
    """Where no alarm is heard, as in a call that never returns."""
    monkeypatch.setattr(local_pool, "GRACE_S", 1.0)
    profile = dataclasses.replace(load_profile(str(tiny_profile)), stage_limit_s=10.0)
    ledger = Ledger(tmp_path / "ledger")
    step = Step("prune", profile.prune_spec(Block("shortened", 20)))
    before, stopped = multiprocessing.active_children(), []

    def hang_once(_, share):
        if not stopped:
            (worker,) = set(multiprocessing.active_children()) - set(before)
            stopped.append(worker)
            os.kill(worker.pid, signal.SIGSTOP)

    with LocalPool(ledger, 1, 1, hang_once) as pool:
        pool.submit(profile.inputs(), [step]).result(timeout=120)
    runner = Runner(profile.inputs(), ledger)
    assert runner.find(step) is not None
    assert [note["kind"] for note in failures.notes_of(ledger, runner.key(step))] == ["timed out"]


@pytest.mark.slow  # starts a worker
def test_an_error_in_the_progress_callback_hangs_nothing(tiny_profile, tmp_path):
    """A terminal that was closed raises what a worker's death raises, too."""
    profile, ledger = load_profile(str(tiny_profile)), Ledger(tmp_path / "ledger")
    step = Step("prune", profile.prune_spec(Block("shortened", 20)))

    def closed(*_):
        raise BrokenPipeError

    with LocalPool(ledger, 1, 1, closed) as pool, pytest.raises(BrokenPipeError):
        pool.submit(profile.inputs(), [step]).result(timeout=100)


def test_steps_that_another_process_computes_come_last(tiny_profile, tmp_path):
    """So that two runs on one ledger share the work in place of waiting for each other."""
    table = experiments.main_table(str(tiny_profile), "shortened:20", "quick", ledger=tmp_path / "ledger")
    profile, ledger = table.profile, table.ledger
    pruned = Step("prune", profile.prune_spec(Block("shortened", 20)))
    runner = Runner(profile.inputs(), ledger)
    runner.run(pruned)
    steps = [Step("recover", profile.lora_spec(table.budget, (8, 8, 8, 8, 0, 8), 1e-3, seed), pruned)
             for seed in range(3)]
    begun, go_on = threading.Event(), threading.Event()

    def slowly(step, share):
        if step.stage == "recover" and not begun.is_set():
            begun.set()
            assert go_on.wait(60)

    other = threading.Thread(target=Runner(profile.inputs(), ledger, slowly).run, args=(steps[0],))
    other.start()
    assert begun.wait(60)
    assert [runner.is_elsewhere(step) for step in steps] == [True, False, False]
    assert groups_of(runner, steps) == [[steps[1]], [steps[2]], [steps[0]]]
    threading.Timer(3, go_on.set).start()
    Run(runner).compute(steps)
    other.join()
    assert [key for stage, key in runner.computed if stage == "recover"] == [runner.key(step) for step in steps[1:]]
    assert not runner.is_elsewhere(steps[0])


class FakeRay:
    """A cluster of promises."""

    class exceptions:
        RayError = type("RayError", (Exception,), {})
        WorkerCrashedError = NodeDiedError = OutOfMemoryError = type("Lost", (RayError,), {})
        RayTaskError = type("RayTaskError", (RayError,), {"cause": None})

    def __init__(self, gpus=0):
        self.gpus, self.futures, self.options = gpus, [], []

    def init(self, **_):
        pass

    def shutdown(self):
        pass

    def cluster_resources(self):
        return {"GPU": self.gpus} if self.gpus else {}

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "here")

    def nodes(self):
        return [{"NodeID": "here", "Alive": True}]

    def remote(self, **options):
        self.options.append(options)

        def submit(*_):
            self.futures.append(execution.Future())
            return SimpleNamespace(future=lambda: self.futures[-1])

        return lambda _: SimpleNamespace(remote=submit)


@pytest.fixture
def on_fake_ray(tiny_profile, tmp_path, monkeypatch):
    def made(workers=2, gpus=0):
        cluster = FakeRay(gpus)
        monkeypatch.setattr(ray_pool, "_imported_ray", lambda: cluster)
        return ray_pool.RayPool(Ledger(tmp_path / "ledger"), workers), cluster

    profile = load_profile(str(tiny_profile))
    return made, profile, [Step("prune", profile.prune_spec(Block("shortened", 20)))]


def test_a_closed_ray_pool_ends_waiting_groups(on_fake_ray):
    made, profile, group = on_fake_ray
    pool, cluster = made(workers=1)
    running = pool.submit(profile.inputs(), group)
    with ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(pool.submit, profile.inputs(), group)
        time.sleep(0.2)
        assert len(cluster.futures) == 1  # no more at once than there are workers
        pool.close()
        with pytest.raises(BadInput, match="the run was ended"):
            waiting.result(timeout=20)
    with pytest.raises(BadInput, match="the run was ended"):
        running.result(timeout=20)
    cluster.futures[0].set_result([])  # too late, and no error


def test_a_ray_pool_reports_every_kind_of_end(on_fake_ray, monkeypatch):
    made, profile, group = on_fake_ray
    pool, cluster = made(workers=9)
    errors = cluster.exceptions
    bad = errors.RayTaskError()
    bad.cause = BadInput("not a row")
    for error, message in ((bad, "not a row"), (errors.RayError("no such env"), "stopped with no such env"),
                        (errors.RayTaskError("shape mismatch"), "stopped with shape mismatch")):
        future = pool.submit(profile.inputs(), group)
        cluster.futures[-1].set_exception(error)
        with pytest.raises(BadInput, match=message):
            future.result(timeout=20)
    lost = pool.submit(profile.inputs(), group)
    cluster.futures[-1].set_exception(errors.WorkerCrashedError("the node died"))
    assert lost.result(timeout=20) is None
    assert Runner(profile.inputs(), pool._ledger).is_settled(group[0])  # given up, and passed over
    monkeypatch.setattr(ray_pool, "note_ended", lambda *_: (_ for _ in ()).throw(BadInput("the disk is full")))
    failures_gone = pool.submit(profile.inputs(), [Step("prune", profile.prune_spec(Block("shortened", 50)))])
    cluster.futures[-1].set_exception(errors.NodeDiedError("gone"))
    with pytest.raises(BadInput, match="the disk is full"):
        failures_gone.result(timeout=20)
    pool.close()


def test_a_cluster_on_which_nothing_moves_ends_the_waiting(on_fake_ray, monkeypatch):
    """As where another cluster of the machine took the processes: Ray's futures never settle."""
    monkeypatch.setattr(ray_pool, "_PAUSE_S", 0.02)
    monkeypatch.setattr(ray_pool, "_STILL_S", 0.3)
    made, profile, group = on_fake_ray
    pool, cluster = made(workers=1)
    key = Runner(profile.inputs(), pool._ledger).key(group[0])
    with pool._ledger.exclusive(key), ThreadPoolExecutor(1) as aside:
        running = aside.submit(pool.submit, profile.inputs(), group).result(timeout=20)
        time.sleep(0.6)
        assert not running.done()  # its step is being computed
    with pytest.raises(BadInput, match=r"none of 1 tasks on the Ray cluster began or ended .* \(ray stop\)"):
        running.result(timeout=20)
    cluster.futures[0].set_result([])  # too late, and no error
    pool.submit(profile.inputs(), group)  # its place is free again
    pool.close()


def test_a_task_gets_a_gpu_of_the_cluster_or_by_the_profile(on_fake_ray):
    made, profile, group = on_fake_ray
    wanting = dataclasses.replace(profile, cost=dataclasses.replace(profile.cost, accelerator_gigabytes=80))
    for gpus, submitted, number in ((0, profile, 0), (8, profile, 1), (0, wanting, 1)):
        pool, cluster = made(gpus=gpus)
        pool.submit(submitted.inputs(), group)
        assert cluster.options[-1]["num_gpus"] == number
        assert cluster.options[-1]["max_calls"] == number
        pool.close()


def test_a_task_returns_what_it_computed(tiny_profile, tmp_path):
    profile = load_profile(str(tiny_profile))
    group = [Step("prune", profile.prune_spec(Block("shortened", 20)))]
    finished = ray_pool._run(profile.inputs(), tmp_path / "ledger", group, os.getcwd(), {})
    assert finished == group
    alarms = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(alarm.finished.is_set() for alarm in alarms)  # they are off
    assert ray_pool._run(profile.inputs(), tmp_path / "ledger", group, os.getcwd(), {}) == []


def test_a_hanging_task_is_noted_and_ends_its_process(tiny_profile, tmp_path, monkeypatch):
    """Where no alarm is heard, as in a call that never returns."""
    statuses = []
    monkeypatch.setattr(ray_pool.os, "_exit", statuses.append)
    monkeypatch.setattr(ray_pool, "GRACE_S", 0.1)
    monkeypatch.setattr(runner_module, "time_limit", lambda seconds: contextlib.nullcontext())
    prune = prune_stage.prune
    monkeypatch.setattr(prune_stage, "prune", lambda *arguments: time.sleep(1) or prune(*arguments))
    profile = dataclasses.replace(load_profile(str(tiny_profile)), stage_limit_s=0.1)
    step = Step("prune", profile.prune_spec(Block("shortened", 20)))
    ray_pool._run(profile.inputs(), tmp_path / "ledger", [step], os.getcwd(), {})
    assert statuses == [ray_pool._STUCK]
    ledger = Ledger(tmp_path / "ledger")
    noted = failures.notes_of(ledger, Runner(profile.inputs(), ledger).key(step))
    assert [note["kind"] for note in noted] == ["timed out"]
