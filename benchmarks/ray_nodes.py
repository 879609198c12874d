"""A table on a Ray cluster of two nodes, one of which is killed at a stage, whose head is killed and started again.
`make torture-ray`.

Both nodes are processes of this machine. At the end: the same entries, traces and tables as from one process without
Ray, byte for byte (times and provenance apart); nothing half-written is left.
"""

import argparse
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring
import psutil
from torture import Run, Watch, contents, finished_keys, small_profile

from rankadaptor.pipeline.leases import read_holder
from rankadaptor.pipeline.ledger_tools import rubbish, verify

_KILLED_AT, _RESTARTED_AT = 6, 16  # entries that are finished by then, of about forty


class Node:
    """A Ray node, by the processes that its start left behind."""

    def __init__(self, *arguments: str):
        before = {process.pid for process in psutil.process_iter()}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", "--disable-usage-stats",
                   *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes = [one for one in psutil.process_iter() if one.pid not in before]

    def whole(self) -> list[psutil.Process]:
        """All of its processes that live, workers first."""
        found = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(part in " ".join(process.cmdline()) for part in ("raylet", "gcs_server", "ray")):
                    found += [*process.children(recursive=True), process]
        return found

    def is_at_work(self, ledger: Path) -> bool:
        """Whether one of its processes is at a stage, whose lease it holds."""
        holders = [read_holder(path) for path in ledger.glob(".leases/*")]
        return bool({one.pid for one in holders if one is not None} & {process.pid for process in self.whole()})

    def kill(self) -> None:
        for one in self.whole():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def head(port: int) -> Node:
    return Node("--head", f"--port={port}", "--include-dashboard=false")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for what comes out, to be looked at")
    measuring.out_option(parser)
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} is there already: name a folder that is not")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        profile = small_profile(folder)
        calm, shared = folder / "calm", folder / "shared"
        for one in (calm, shared):
            one.mkdir()
        if Run(profile, calm).process.wait():
            print((calm / "log").read_text())
            return 1
        whole = len(finished_keys(calm / "ledger"))
        print(f"alone: {whole} entries", flush=True)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        nodes = [head(port), Node(f"--address=127.0.0.1:{port}")]
        os.environ.update(RAY_ADDRESS=f"127.0.0.1:{port}", RANKADAPTOR_EXECUTOR="ray", RANKADAPTOR_WORKERS="2")
        watch = Watch(shared / "ledger")
        watch.start()
        try:
            run = Run(profile, shared)
            done = []
            for at, what in ((_KILLED_AT, "node killed"), (_RESTARTED_AT, "head killed")):
                while run.process.poll() is None and len(finished_keys(shared / "ledger")) < at:
                    time.sleep(0.05)
                node = nodes[1 if what == "node killed" else 0]
                while run.process.poll() is None and not node.is_at_work(shared / "ledger"):
                    time.sleep(0.01)
                if run.process.poll() is not None:
                    break
                node.kill()
                done.append(f"{what} at work, at {len(finished_keys(shared / 'ledger'))} entries")
                print(done[-1], flush=True)
            if len(done) == 2:
                time.sleep(5)
                nodes[0] = head(port)
                print("head started again", flush=True)
            status = run.process.wait()
        finally:
            for node in nodes:
                node.kill()
        watch.over.set()
        watch.join()
        if status:
            print((shared / "log").read_text()[-3000:], file=sys.stderr)
        mine, theirs = contents(shared), contents(calm)
        differing = sorted(path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path))
        wrong = {
            "files that differ": differing,
            "begun again although finished": watch.again,
            "left half-written": [piece.path.name for piece in rubbish(shared / "ledger")],
            "damaged": verify(shared / "ledger"),
            "what did not happen": [] if len(done) == 2 and watch.looked and not status else ["see above"],
        }
        about = (f"Table 2 of the embedded model on its smallest budget, on a Ray cluster of two nodes that are"
                 f" processes of this machine: {', '.join(done)}, and started again, of {whole}. {len(mine)} files"
                 " compared with a run without Ray.")
        table = [{"looked for": what, "found": len(found)} for what, found in wrong.items()]
        measuring.write(options.out, "ray", "A table on a cluster that falls apart", about, table, {"events": done})
        bad = {what: found for what, found in wrong.items() if found}
        if bad:
            print(bad, file=sys.stderr)
        return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
