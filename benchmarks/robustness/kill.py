"""Kill runs of `sample` with SIGKILL, run them again, and compare the stores.

    python -m benchmarks.robustness.kill MODEL DATA [--kills 50]
                                         [--where threads restart append cluster worker files
                                          icechunk icechunk-restart icechunk-append
                                          icechunk-cluster]

MODEL is a model file, DATA a Zarr store of its input. ``threads`` and ``cluster`` kill the calling
process at random moments (a cluster has two worker processes), ``restart`` does so while it
replaces a finished store, ``append`` while it adds members and samples to one (which must be
readable right after the kill), ``worker`` kills a worker under a living client, ``files`` kills
before single changes in the file system, the catalog included; ``icechunk...`` the same with an
Icechunk repository, a commit per two regions and no catalog. A moment after the end of the drawing
does not count, and another one is tried. After each kill the same call runs again; the store must
then be bitwise equal to one of an undisturbed run, all files of it but for the time in its history
and the token of the run, and until then no catalog may list it. Of a repository, values,
coordinates, attributes and records are compared, and the ensemble on branch main right after the
kill must be complete. The exit code is 1 if a store is wrong, or if nothing was killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import write_json

if TYPE_CHECKING:
    from xcvae.ensemble.store import EnsembleStore

OPTIONS = {"mode": "posterior", "members": 4, "spread": 0.5, "seed": 7, "progress": False}
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
PLACES = ["threads", "restart", "append", "cluster", "worker", "files"]
ICECHUNK = ["icechunk", "icechunk-restart", "icechunk-append", "icechunk-cluster"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def prepare() -> None:
    """Import the modules of every child, without starting threads, which do not survive a fork."""
    import distributed  # noqa: F401
    import intake.readers.readers  # noqa: F401
    import torch

    import xcvae.ensemble.sample
    import xcvae.generator.model  # noqa: F401

    torch.set_num_threads(1)


def draw(model: str, data: str, place: str, where: str, dies_at: int) -> None:
    """Call `sample` once, in the process that is killed; print a line when it starts."""
    import xarray as xr

    import xcvae

    ds = xr.open_zarr(data, consolidated=False).load()
    store, catalog = Path(place) / "e.zarr", Path(place) / "c.yaml"
    listed = {"catalog": catalog, "name": "e"}
    if where.startswith("icechunk"):
        from xcvae.ensemble.store.icechunk import IcechunkStore

        store, listed = IcechunkStore(Path(place) / "e.icechunk", regions_per_commit=2), {}
    options = {**OPTIONS, "chunks": {"realization": 2, ds.pr.dims[0]: 1}}

    def go() -> None:
        print("go", flush=True)
        if where.endswith("-read"):
            print(json.dumps(content_of_main(store)), flush=True)
            return
        if where.endswith("append-old"):
            part = ds.isel({ds.pr.dims[0]: slice(3)})
            xcvae.sample(part, model, store=store, **{**options, "members": 3})
            return
        if where.endswith("old"):
            xcvae.sample(ds, model, store=store, **{**options, "seed": 8})
            return
        resume = next((word for word in ("restart", "append") if where.endswith(word)), True)
        xcvae.sample(ds, model, store=store, resume=resume, **listed, **options)
        print("drawn", flush=True)

    if where.endswith("cluster") or where == "worker":
        import distributed

        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            print(*client.run(os.getpid).values(), flush=True)
            go()
    else:
        count = die_at_change(place, dies_at) if where == "files" else int
        go()
        print(f"changes {count()}", flush=True)


def content_of_main(store: EnsembleStore) -> dict[str, str]:
    """Return the content of branch main: nothing, or hashes of an ensemble."""
    from xcvae.errors import StoreError

    try:
        ens = store.open()
    except StoreError:
        return {}
    variables = {name: bytes(values.values.data) for name, values in ens.variables.items()}
    found = store.status().complete
    metadata = {k: v for k, v in found.metadata.items() if k not in ("token", "files", "calls")}
    records = {
        "run": metadata,
        "entries": found.ledger.entries(),
        "intact": len(found.ledger.intact()),
    }
    return {
        **{name: hashlib.sha256(content).hexdigest() for name, content in variables.items()},
        "attributes": json.dumps({k: v for k, v in ens.attrs.items() if k != "history"}),
        "records": json.dumps(records, sort_keys=True),
    }


def die_at_change(place: str, number: int) -> Callable[[], int]:
    """Die right before a numbered change in the file system; return a counter of changes."""
    seen = 0

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (opens or event in CHANGES) and place in str(arguments[0]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    return lambda: seen


class Child:
    """One call of `sample` in a forked process, which saves the time of its imports."""

    def __init__(self, model: str, data: str, place: Path, where: str, dies_at: int) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the object
        reading, writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(writing, 1)
            os.dup2(self.errors.fileno(), 2)
            status = 1
            try:
                draw(model, data, str(place), where, dies_at)
                status = 0
            except BaseException:  # noqa: BLE001  printed for the parent
                traceback.print_exc(file=os.fdopen(2, "w", closefd=False))
            sys.stdout.flush()
            os._exit(status)
        os.close(writing)
        self.output = os.fdopen(reading)

    def started(self) -> list[int]:
        """Wait until sampling starts; return the process ids of the workers of a cluster."""
        workers: list[int] = []
        for line in self.output:
            if line == "go\n":
                break
            workers = [int(pid) for pid in line.split()]
        return workers

    def is_drawn(self) -> bool:
        """Return True if sampling is over, or the process has ended."""
        return bool(select.select([self.output], [], [], 0)[0])

    def ended(self) -> tuple[int, str, str]:
        """Wait for the end; return exit status (negative: killed), output and errors."""
        output = self.output.read()
        _, status = os.waitpid(self.pid, 0)
        self.output.close()
        self.errors.seek(0)
        return os.waitstatus_to_exitcode(status), output, self.errors.read()[-2000:]


class Trials:
    """Kills of one kind, each in a folder of its own."""

    def __init__(self, model: str, data: str, where: str) -> None:
        self.model, self.data, self.where = model, data, where
        self.killed = self.wrong = 0
        self.notes: list[str] = []
        self.old: Path | None = None
        self.icechunk = where.startswith("icechunk")

    def start(self, place: Path, dies_at: int = -1) -> Child:
        """Start one call."""
        return Child(self.model, self.data, place, self.where, dies_at)

    def prepare(self, place: Path) -> None:
        """Copy a finished store for a run that replaces it; make the store at the first time."""
        if not self.where.endswith(("restart", "append")):
            return
        if self.old is None:
            self.old = place.with_name("old")
            self.old.mkdir()
            kind = "append-old" if self.where.endswith("append") else "old"
            kind = f"icechunk-{kind}" if self.icechunk else kind
            child = Child(self.model, self.data, self.old, kind, -1)
            child.started()
            status, _, errors = child.ended()
            if status:
                sys.exit(errors)
        shutil.copytree(self.old, place, dirs_exist_ok=True)

    def reference(self, place: Path) -> tuple[dict[str, bytes], float, int]:
        """Return content, seconds, and changes in the file system of an undisturbed run.

        The seconds end with the call of `sample`: to close a cluster can take longer than that.
        """
        self.prepare(place)
        child = self.start(place, 0)
        child.started()
        start = time.perf_counter()
        child.output.readline()
        seconds = time.perf_counter() - start
        status, output, errors = child.ended()
        if status:
            sys.exit(errors)
        changes = int(output.split()[-1]) if self.where == "files" else 0
        return self.content(place), seconds, changes

    def content(self, place: Path) -> dict[str, bytes]:
        """Return the content of a store; read a repository in a child, because of its threads."""
        if not self.icechunk:
            return content_of(place)
        child = Child(self.model, self.data, place, "icechunk-read", -1)
        child.started()
        status, output, errors = child.ended()
        if status:
            return {"unreadable": errors.encode()}
        return {name: text.encode() for name, text in json.loads(output.splitlines()[0]).items()}

    def trial(
        self, place: Path, reference: dict[str, bytes], moment: float, dies_at: int = -1
    ) -> None:
        """Kill one run, run it again, and compare its store."""
        self.prepare(place)
        what = f"killed at {moment:.3f} s" if dies_at < 0 else f"killed before change {dies_at}"
        child = self.start(place, dies_at)
        workers = child.started()
        hit = False
        if self.where != "files":
            time.sleep(moment)
            hit = not child.is_drawn()
            with suppress(ProcessLookupError):
                os.kill(workers[0] if self.where == "worker" else child.pid, signal.SIGKILL)
        status, _, errors = child.ended()
        self.killed += status == -signal.SIGKILL if self.where == "files" else hit
        if self.where == "worker" and status:
            self.fail(f"a worker {what}: the client gave up:\n{errors}")
        elif self.where == "append" and not is_whole(place):
            self.fail(f"{what}: the store is not whole")
        elif self.icechunk and (other := self.incomplete(place, reference)):
            self.fail(f"{what}: branch main shows no complete ensemble: {other}")
        elif listed(place) and not (place / "e.zarr").is_dir():
            self.fail(f"{what}: listed, but not there")
        else:
            self.again(place, reference, what)

    def incomplete(self, place: Path, reference: dict[str, bytes]) -> str:
        """Describe the content of branch main right after a kill; empty for a whole ensemble."""
        found = self.content(place)
        if found in (reference, {} if self.old is None else self.content(self.old)):
            return ""
        if self.where.endswith("append") and "records" in found:
            # Samples are appended before members: the ensemble in between is whole too.
            records = json.loads(found["records"])
            if records["intact"] == records["run"]["regions"]:
                return ""
        return found.get("unreadable", b"another ensemble").decode()

    def again(self, place: Path, reference: dict[str, bytes], what: str) -> None:
        """Run the same call again, and compare its store."""
        child = self.start(place)
        status, _, errors = child.ended()
        if status:
            self.fail(f"{what}: the same call again ended with an error:\n{errors}")
        elif other := differing(self.content(place), reference):
            self.fail(f"{what}: other files {other[:8]}")
        elif not self.icechunk and not listed(place):
            self.fail(f"{what}: not listed in the end")
        elif left := leftovers(place):
            self.fail(f"{what}: left behind {left}")

    def fail(self, what: str) -> None:
        """Record a failure."""
        self.wrong += 1
        self.notes.append(what)
        print(f"  {what}", flush=True)


def content_of(place: Path) -> dict[str, bytes]:
    """Return the files of the finished store, without the time of the run and its token.

    Read without Zarr, whose threads fork badly. Chunks of one codec and level have the same bytes
    where they have the same values.
    """
    store = place / "e.zarr"
    files = (path for path in store.rglob("*") if path.is_file())
    found = {path.relative_to(store).as_posix(): path.read_bytes() for path in files}
    root, run = json.loads(found["zarr.json"]), json.loads(found["pr/ledger/run.json"])
    del root["attributes"]["history"], run["token"], run["files"]["zarr.json"]
    run.pop("calls", None)  # with the times of all calls
    plain = {"zarr.json": root, "pr/ledger/run.json": run}
    return found | {n: json.dumps(c, sort_keys=True).encode() for n, c in plain.items()}


def is_whole(place: Path) -> bool:
    """Tell if a store is finished and all its chunks are as its ledger says."""
    store = place / "e.zarr"
    if not store.is_dir():  # between the two renames of the last step
        store = place / "e.zarr.partial"
    lines = (store / "pr/ledger/regions.jsonl").read_text().splitlines()
    run = json.loads((store / "pr/ledger/run.json").read_text())
    entries = [json.loads(line) for line in lines]
    chunks = [(store / "pr" / entry["file"]).read_bytes() for entry in entries]
    same = [
        hashlib.sha256(chunk).hexdigest() == entry["sha256"]
        for chunk, entry in zip(chunks, entries, strict=True)
    ]
    return len(entries) == run["regions"] and all(same)


def differing(found: dict[str, bytes], reference: dict[str, bytes]) -> list[str]:
    """Return names of files that differ or are missing in one of the two."""
    names = sorted(found.keys() | reference.keys())
    return [name for name in names if found.get(name) != reference.get(name)]


def listed(place: Path) -> bool:
    return (place / "c.yaml").exists() and "e.zarr" in (place / "c.yaml").read_text()


def leftovers(place: Path) -> list[str]:
    kept = {"e.zarr", "c.yaml", ".e.zarr.lock", ".c.yaml.lock", "e.icechunk", ".e.icechunk.lock"}
    return sorted({path.name for path in place.iterdir()} - kept)


def main(argv: Sequence[str] | None = None) -> int:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--where", nargs="+", default=PLACES, choices=PLACES + ICECHUNK)
    parser.add_argument("--kills", type=int, default=50, help="per place; files: evenly spread")
    parser.add_argument("--seed", type=int, help="of the moments")
    parser.add_output_file()
    options = parser.parse_args(argv)
    prepare()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    rng, results = random.Random(seed), {}
    print(f"moments from seed {seed}")
    for where in options.where:
        results[where] = series(options, where, rng)
    if options.output:
        write_json(options.output, {"seed": seed, **results})
    return int(any(one["wrong"] or not one["killed"] for one in results.values()))


def series(options: argparse.Namespace, where: str, rng: random.Random) -> dict[str, object]:
    """Kill runs of one kind, as many as requested."""
    trials = Trials(options.model, options.data, where)
    with tempfile.TemporaryDirectory(prefix="kill") as folder:
        place = Path(folder) / "reference"
        place.mkdir()
        reference, seconds, changes = trials.reference(place)
        count = min(options.kills, changes) if where == "files" else options.kills
        tried, latest = 0, seconds
        # Replace moments after the end, but only so many of them.
        while tried < count or (where != "files" and trials.killed < count and tried < 5 * count):
            place = Path(folder) / "trial"
            place.mkdir()
            # Evenly spread over the changes; shifted, so that a few do not always meet the same.
            change = 1 + int((tried + rng.random()) * changes / count) if changes else -1
            moment, before = rng.uniform(0.0, latest), trials.killed
            trials.trial(place, reference, moment, change)
            if trials.killed == before:
                latest = moment  # runs may be faster than the first, and were over by then
            shutil.rmtree(place)
            tried += 1
    text = f"{trials.killed} of {tried} killed ({seconds:.1f} s, {changes} changes undisturbed)"
    print(f"{where:16} {text}: {trials.wrong} wrong", flush=True)
    return {"tried": tried, "killed": trials.killed, "wrong": trials.wrong, "notes": trials.notes}


if __name__ == "__main__":
    sys.exit(main())
