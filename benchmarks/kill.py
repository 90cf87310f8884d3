"""Kill runs of the sampling engine with SIGKILL, run them again, and compare what is left.

    python benchmarks/kill.py MODEL DATA [--where threads restart cluster worker files
                                          icechunk icechunk-restart icechunk-cluster] [--kills 50]

MODEL is a model file, DATA a Zarr store of what it draws for. ``threads`` and ``cluster`` kill the
calling process at random moments (a cluster has two worker processes), ``restart`` does so while
it replaces a finished store, ``worker`` kills a worker under a living client, ``files`` kills
before single changes in the file system, the catalog included; ``icechunk...`` the same with an
Icechunk repository, a commit per two regions and no catalog. A moment after the end of the
drawing is no kill, and another one is tried. After each kill the same call runs again; the store
must then be bitwise equal to one that nobody disturbed, all files of it but for the time in its
history and the token of the run, and until then no catalog may list it. Of a repository, values,
coordinates, attributes and records are compared, and what branch main shows right after the kill
must be whole. Ends with code 1 if one is
not, or if nothing was killed.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xcvae.ensemble.store import EnsembleStore

ASKED = {"mode": "posterior", "members": 4, "spread": 0.5, "seed": 7, "progress": False}
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
PLACES = ["threads", "restart", "cluster", "worker", "files"]
ICECHUNK = ["icechunk", "icechunk-restart", "icechunk-cluster"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def prepare() -> None:
    """Import what every child needs; nothing that starts threads, which do not survive a fork."""
    import distributed  # noqa: F401
    import intake.readers.readers  # noqa: F401
    import torch

    import xcvae.ensemble.sample
    import xcvae.generator.model  # noqa: F401

    torch.set_num_threads(1)


def draw(model: str, data: str, place: str, where: str, dies_at: int) -> None:
    """What is killed: one call of `sample`; it says when it starts."""
    import xarray as xr

    import xcvae

    ds = xr.open_zarr(data, consolidated=False).load()
    store, catalog = Path(place) / "e.zarr", Path(place) / "c.yaml"
    listed = {"catalog": catalog, "name": "e"}
    if where.startswith("icechunk"):
        from xcvae.ensemble.store.icechunk import IcechunkStore

        store, listed = IcechunkStore(Path(place) / "e.icechunk", regions_per_commit=2), {}
    asked = {**ASKED, "chunks": {"realization": 2, ds.pr.dims[0]: 1}}

    def go() -> None:
        print("go", flush=True)
        if where.endswith("-read"):
            print(json.dumps(shown(store)), flush=True)
            return
        if where.endswith("old"):
            xcvae.sample(ds, model, store=store, **{**asked, "seed": 8})
            return
        resume = "restart" if where.endswith("restart") else True
        xcvae.sample(ds, model, store=store, resume=resume, **listed, **asked)
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


def shown(store: EnsembleStore) -> dict[str, str]:
    """What a reader of the branch main finds: nothing, or an ensemble."""
    from xcvae.errors import StoreError

    try:
        ens = store.open()
    except StoreError:
        return {}
    variables = {name: bytes(values.values.data) for name, values in ens.variables.items()}
    found = store.status().complete
    told = {k: v for k, v in found.metadata.items() if k not in ("token", "files")}
    records = {"run": told, "entries": found.ledger.entries(), "intact": len(found.ledger.intact())}
    return {
        **{name: hashlib.sha256(content).hexdigest() for name, content in variables.items()},
        "attributes": json.dumps({k: v for k, v in ens.attrs.items() if k != "history"}),
        "records": json.dumps(records, sort_keys=True),
    }


def die_at_change(place: str, number: int) -> Callable[[], int]:
    """Die right before a numbered change in the file system; returns what counts them."""
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
    """One call of `sample` in a forked process: imports are paid for once."""

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
            except BaseException:  # noqa: BLE001  it goes where a traceback goes
                traceback.print_exc(file=os.fdopen(2, "w", closefd=False))
            sys.stdout.flush()
            os._exit(status)
        os.close(writing)
        self.said = os.fdopen(reading)

    def started(self) -> list[int]:
        """Wait until it begins to sample; the processes of its workers, if it has some."""
        workers: list[int] = []
        for line in self.said:
            if line == "go\n":
                break
            workers = [int(pid) for pid in line.split()]
        return workers

    def is_drawn(self) -> bool:
        """Whether it has said already that it is done with sampling, or has ended."""
        return bool(select.select([self.said], [], [], 0)[0])

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end: exit status (negative: killed), what it said and complained of."""
        said = self.said.read()
        _, status = os.waitpid(self.pid, 0)
        self.said.close()
        self.errors.seek(0)
        return os.waitstatus_to_exitcode(status), said, self.errors.read()[-2000:]


class Trials:
    """Kill after kill, each in a folder of its own."""

    def __init__(self, model: str, data: str, where: str) -> None:
        self.model, self.data, self.where = model, data, where
        self.killed = self.wrong = 0
        self.notes: list[str] = []
        self.old: Path | None = None
        self.icechunk = where.startswith("icechunk")

    def start(self, place: Path, dies_at: int = -1) -> Child:
        """Begin one call."""
        return Child(self.model, self.data, place, self.where, dies_at)

    def prepare(self, place: Path) -> None:
        """Make a store that is to be replaced, once; trials get a copy of it."""
        if not self.where.endswith("restart"):
            return
        if self.old is None:
            self.old = place.with_name("old")
            self.old.mkdir()
            kind = "icechunk-old" if self.icechunk else "old"
            child = Child(self.model, self.data, self.old, kind, -1)
            child.started()
            status, _, errors = child.ended()
            if status:
                sys.exit(errors)
        shutil.copytree(self.old, place, dirs_exist_ok=True)

    def reference(self, place: Path) -> tuple[dict[str, bytes], float, int]:
        """Content of an undisturbed store, how long it takes, and the changes it makes."""
        self.prepare(place)
        child = self.start(place, 0)
        child.started()
        start = time.perf_counter()
        status, said, errors = child.ended()
        if status:
            sys.exit(errors)
        changes = int(said.split()[-1]) if self.where == "files" else 0
        seconds = time.perf_counter() - start
        return self.content(place), seconds, changes

    def content(self, place: Path) -> dict[str, bytes]:
        """What is there in the end; a repository is read in another process, for its threads."""
        if not self.icechunk:
            return content_of(place)
        child = Child(self.model, self.data, place, "icechunk-read", -1)
        child.started()
        status, said, errors = child.ended()
        if status:
            return {"unreadable": errors.encode()}
        return {name: text.encode() for name, text in json.loads(said.splitlines()[0]).items()}

    def trial(
        self, place: Path, reference: dict[str, bytes], moment: float, dies_at: int = -1
    ) -> None:
        """Kill one run, run it again, and look at what is there."""
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
        elif self.icechunk and (found := self.content(place)) not in self.whole(reference):
            other = found.get("unreadable", b"another ensemble").decode()
            self.fail(f"{what}: branch main shows no whole ensemble: {other}")
        elif listed(place) and not (place / "e.zarr").is_dir():
            self.fail(f"{what}: listed, but not there")
        else:
            self.again(place, reference, what)

    def whole(self, reference: dict[str, bytes]) -> list[dict[str, bytes]]:
        """What branch main may show right after a kill."""
        return [reference, {} if self.old is None else self.content(self.old)]

    def again(self, place: Path, reference: dict[str, bytes], what: str) -> None:
        """Run the same call again."""
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
        """Note what is wrong."""
        self.wrong += 1
        self.notes.append(what)
        print(f"  {what}", flush=True)


def content_of(place: Path) -> dict[str, bytes]:
    """Files of the finished store, but for what tells the time of a run and its token.

    Read without Zarr, whose threads fork badly. Chunks of one codec and level have the same bytes
    where they have the same values.
    """
    store = place / "e.zarr"
    files = (path for path in store.rglob("*") if path.is_file())
    found = {path.relative_to(store).as_posix(): path.read_bytes() for path in files}
    root, run = json.loads(found["zarr.json"]), json.loads(found["pr/ledger/run.json"])
    del root["attributes"]["history"], run["token"], run["files"]["zarr.json"]
    plain = {"zarr.json": root, "pr/ledger/run.json": run}
    return found | {n: json.dumps(c, sort_keys=True).encode() for n, c in plain.items()}


def differing(found: dict[str, bytes], reference: dict[str, bytes]) -> list[str]:
    """Names of files that differ, or that only one of the two has."""
    names = sorted(found.keys() | reference.keys())
    return [name for name in names if found.get(name) != reference.get(name)]


def listed(place: Path) -> bool:
    return (place / "c.yaml").exists() and "e.zarr" in (place / "c.yaml").read_text()


def leftovers(place: Path) -> list[str]:
    kept = {"e.zarr", "c.yaml", ".e.zarr.lock", ".c.yaml.lock", "e.icechunk", ".e.icechunk.lock"}
    return sorted({path.name for path in place.iterdir()} - kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument(
        "--where", nargs="+", default=PLACES, choices=PLACES + ICECHUNK,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=50, help="per place; files: evenly spread")
    parser.add_argument("--seed", type=int, help="of the moments")
    parser.add_argument("--output", type=Path, help="results as JSON")
    arguments = parser.parse_args()
    prepare()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    rng, results = random.Random(seed), {}
    print(f"moments from seed {seed}")
    for where in arguments.where:
        results[where] = series(arguments, where, rng)
    if arguments.output:
        arguments.output.write_text(json.dumps({"seed": seed, **results}, indent=1))
    return int(any(one["wrong"] or not one["killed"] for one in results.values()))


def series(arguments: argparse.Namespace, where: str, rng: random.Random) -> dict[str, object]:
    trials = Trials(arguments.model, arguments.data, where)
    with tempfile.TemporaryDirectory(prefix="kill") as folder:
        place = Path(folder) / "reference"
        place.mkdir()
        reference, seconds, changes = trials.reference(place)
        count = min(arguments.kills, changes) if where == "files" else arguments.kills
        tried = 0
        # Moments after the end are tried again, but not forever.
        while tried < count or (where != "files" and trials.killed < count and tried < 5 * count):
            place = Path(folder) / "trial"
            place.mkdir()
            # Evenly spread over the changes; shifted, so that a few do not always meet the same.
            change = 1 + int((tried + rng.random()) * changes / count) if changes else -1
            trials.trial(place, reference, rng.uniform(0.0, seconds), change)
            shutil.rmtree(place)
            tried += 1
    text = f"{trials.killed} of {tried} killed ({seconds:.1f} s, {changes} changes undisturbed)"
    print(f"{where:16} {text}: {trials.wrong} wrong", flush=True)
    return {"tried": tried, "killed": trials.killed, "wrong": trials.wrong, "notes": trials.notes}


if __name__ == "__main__":
    sys.exit(main())
