"""Kill a table's run again and again, start it anew each time, and hold what comes out against an undisturbed run.
`make torture`.

Every process of the run gets SIGKILL at a random moment; or its first one alone, whose kernel is left to find out; or
the notebook's kernel alone. Whatever happens, at the end: the same entries, traces and tables, byte for byte (times and
provenance apart); nothing that was finished was begun again; nothing half-written is left.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measuring
import psutil
import yaml

from rankadaptor.pipeline.ledger_files import is_key
from rankadaptor.pipeline.ledger_tools import rubbish, verify
from rankadaptor.profiles import FOLDER

BLOCKS = "llm-pruner:20 shortened:50"
_TABLES = ("table2.md", "table2.csv", "table2.tex", "table2-differences.csv")


def small_profile(folder: Path) -> Path:
    """The embedded model, recovered and searched as little as it can be; two blocks, two processes."""
    profile = yaml.safe_load((FOLDER / "tiny.yaml").read_text())
    quick = profile["budgets"]["quick"]
    quick["training"] |= {"steps": 6, "batch_rows": 8, "micro_batch_rows": 8, "warmup_steps": 1}
    quick |= {"search_items": 12, "report_items": 24, "per_task": False}
    quick["search"] |= {"initial": 3, "rounds": 2, "candidates_per_round": 200}
    profile["budgets"] = {"quick": quick}
    path = folder / "torture.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


class Run:
    """One run of the table, in processes of its own."""

    def __init__(self, profile: Path, folder: Path):
        command = [sys.executable, "-m", "rankadaptor", "reproduce", "table2", "--profile", str(profile), "--blocks",
                   BLOCKS, "--ledger", str(folder / "ledger"), "--reports", str(folder / "reports")]
        self.log = (folder / "log").open("a")
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("RANKADAPTOR_") or name == "RANKADAPTOR_CACHE"}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)

    def kill(self, what: str) -> None:
        root = psutil.Process(self.process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while what == "kernel" and not root.children() and self.process.poll() is None:
                time.sleep(0.01)  # it has not started one yet
            victims = {"all": [*root.children(recursive=True), root], "first": [root], "kernel": root.children()}[what]
            for one in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Watch(threading.Thread):
    """Looks at what is being computed, and notes what is begun although it was finished."""

    def __init__(self, ledger: Path):
        super().__init__(daemon=True)
        self.ledger, self.over = ledger, threading.Event()
        self.begun: set[Path] = set()
        self.again: list[str] = []
        self.looked = False  # to the end

    def run(self) -> None:
        while not self.over.wait(0.01):
            finished = finished_keys(self.ledger)  # before what is begun: an entry comes out of there
            with contextlib.suppress(FileNotFoundError):  # it was finished, or swept, under our eyes
                for path in set(self.ledger.glob(".unfinished/*/*")) - self.begun:
                    if is_key(path.name):
                        self.begun.add(path)
                        if path.name in finished:
                            self.again.append(path.name)
        self.looked = True


def finished_keys(ledger: Path) -> set[str]:
    return {path.name for path in ledger.iterdir() if is_key(path.name)} if ledger.is_dir() else set()


def contents(folder: Path) -> dict[str, str]:
    """Every file of a ledger that a table can depend on, and the tables, as digests."""
    found = {}
    ledger = folder / "ledger"
    for path in ledger.rglob("*"):
        name = path.relative_to(ledger)
        if not path.is_file() or name.parts[0].startswith(".") or name.name == "checksums.json":
            continue
        data = path.read_bytes()
        if name.name == "result.json":
            data = json.dumps(json.loads(data)["result"], sort_keys=True).encode()
        found[str(name)] = hashlib.sha256(data).hexdigest()
    written = {path.name: path for path in (folder / "reports").rglob("table2*")}
    return found | {name: hashlib.sha256(written[name].read_bytes()).hexdigest() for name in _TABLES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--keep", type=Path, help="a folder for what comes out, to be looked at")
    measuring.out_option(parser)
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} is there already: name a folder that is not")
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)  # TemporaryDirectory made its own
        profile = small_profile(folder)
        calm, tortured = folder / "calm", folder / "tortured"
        for one in (calm, tortured):
            one.mkdir()
        began = time.monotonic()
        if Run(profile, calm).process.wait():
            print((calm / "log").read_text())
            return 1
        undisturbed = time.monotonic() - began
        print(f"undisturbed: {undisturbed:.0f} s, {len(finished_keys(calm / 'ledger'))} entries", flush=True)
        watch = Watch(tortured / "ledger")
        watch.start()
        whole = len(finished_keys(calm / "ledger"))
        moments = sorted(draw.randrange(whole) for _ in range(options.kills))  # entries that are there by then
        kills, finished_at = 0, []
        for moment in moments:
            run = Run(profile, tortured)
            while run.process.poll() is None and len(finished_keys(tortured / "ledger")) < moment:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 6) if kills % 5 == 0 else draw.uniform(0, 1))  # some while it starts, too
            if run.process.poll() is not None:
                break  # it came to its end
            what = ("all", "kernel", "all", "first")[kills % 4]
            run.kill(what)
            kills += 1
            finished_at.append(len(finished_keys(tortured / "ledger")))
            print(f"killed {what}: {finished_at[-1]} entries are there", flush=True)
        status = Run(profile, tortured).process.wait()
        watch.over.set()
        watch.join()
        if status:
            print((tortured / "log").read_text()[-3000:], file=sys.stderr)
            return 1
        left = rubbish(tortured / "ledger")
        mine, theirs = contents(tortured), contents(calm)
        differing = sorted(path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path))
        wrong: dict[str, Any] = {
            "files that differ": differing, "begun again although finished": watch.again,
            "kills that did not come about": [str(moment) for moment in moments[kills:]],
            "stages nobody saw begin": [] if watch.looked and watch.begun else ["all"],
            "left half-written": [str(piece.path.name) for piece in left], "damaged": verify(tortured / "ledger"),
        }
        table = [{"looked for": what, "found": len(found)} for what, found in wrong.items()]
        about = (
            f"Table 2 of the embedded model on its smallest budget, blocks {BLOCKS}: {undisturbed:.0f} s undisturbed."
            f" {kills} times SIGKILL at a random moment (seed {options.seed}), to all processes, to the notebook's"
            f" kernel, to all, to the first process, in turn. Entries finished by then:"
            f" {', '.join(map(str, finished_at))} of {len(finished_keys(calm / 'ledger'))}. {len(mine)} files compared."
        )
        measuring.write(options.out, "torture", "Runs that are killed end as runs that are not", about, table,
                        {"finished_at": finished_at, "files_compared": len(mine)})
        bad = {what: found for what, found in wrong.items() if found}
        if bad:
            print(json.dumps(bad, indent=1), file=sys.stderr)
        return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
