"""Write the files of `data/`: a model, a checkpoint and ensembles as commit 0e29e88 wrote them.

    git worktree add /tmp/old 0e29e88
    PYTHONPATH=/tmp/old OMP_NUM_THREADS=1 python tests/compatibility/make_fixtures.py

Stores in tiles of the first rule of the seam are those of 2b64952, written by its code likewise,
with the argument ``seam``.

The tests do not run this script: the point of the files is that an earlier xcvae wrote them. They
are replaced only when a format changes on purpose, and then the old ones stay beside the new ones.

``made.json`` holds the arguments of every call, and what the calls gave.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("data")
COMMITS = {"all": "0e29e88", "seam": "2b64952"}
CROP = {"y": [60, 84], "x": [60, 84]}
# Positions of wet frames in time: those trained on, and those that ensembles are drawn for.
LEARNED = [106, 111, 117, 122, 127, 132, 143, 148, 210, 236, 283, 324, 329, 334, 439, 446, 454]
DRAWN = [108, 129, 233, 331, 459]
TRAINING = {
    "target": "pr",
    "coarsen": 6,
    "generator": {"channels": [6, 6, 5], "latents": [2, 1, 1], "context": 4},
    "fit": {
        "max_steps": 6,
        "batch_size": 4,
        "crop": 24,
        "validations": 3,
        "learning_rate": 0.01,
    },  # fmt: skip,
    "seed": 11,
    "device": "cpu",
    "progress": False,
}
ALL = {"members": 4, "seed": 7, "chunks": {"realization": 2, "time": 2}, "progress": False}
REGIONS, FAILING_REGION = 6, 4
RADAR = [
    {"name": "threshold", "value": "0.06 mm h-1"},
    {"name": "round", "step": "0.12 mm h-1"},
]
CALLS: dict[str, dict[str, Any]] = {
    "prior": {**ALL, "temperature": 0.9, "min_mass": 0.09, "tile": {"y": 20, "x": 20}},
    "posterior": {
        **ALL, "mode": "posterior", "diversity": 0.05, "postprocess": RADAR,
    },
    # It takes the place of one with another seed.
    "replacement": {**ALL, "chunks": {"realization": 2, "time": 1}, "members": 2, "seed": 8},
}  # fmt: skip
# Two fine levels by the first rule of the seam, one by the next; last digits of members 0 and 3
# differ between the two, in float32.
SEAM_CALL = {
    "members": 4, "seed": 15, "chunks": {"realization": 1}, "tile": {"x": 12}, "progress": False,
}  # fmt: skip
SEAM_FRAME, SEAM_WIDTH = 459, 280


def radar(frames: list[int]) -> Any:
    """Return frames of a part of the bundled radar data, in memory, target only."""
    import xcvae

    ds = xcvae.tutorial.open_dataset("radklim").drop_dims(["y_coarse", "x_coarse"])
    part = ds.isel({dim: slice(*bounds) for dim, bounds in CROP.items()})
    return part.isel(time=frames).load().drop_encoding()


def strip() -> Any:
    """Return a frame, repeated along x: the seam becomes coarser only for larger domains."""
    ds = radar([SEAM_FRAME]).drop_vars(["x", "y"])
    return ds.pad(x=(0, SEAM_WIDTH - ds.sizes["x"]), mode="wrap")


def train(path: Path) -> Any:
    """Train the model of all stores."""
    import xcvae

    return xcvae.train(radar(LEARNED), path=path, **TRAINING)


def draw(call: str, store: object, **changed: Any) -> Any:
    """Draw an ensemble, region after region."""
    import dask

    import xcvae

    with dask.config.set(scheduler="synchronous"):
        model = xcvae.load(DATA / "model.xcvae").to("cpu")
        if call == "seam":
            return xcvae.sample(strip(), model, store=store, **{**SEAM_CALL, **changed})
        return xcvae.sample(radar(DRAWN), model, store=store, **{**CALLS[call], **changed})


# --- calls that end half-way, in processes of their own ------------------------------------------


def child_trains_slowly(path: str) -> None:
    """Train with a rest before every step, so that there is time for a kill."""
    import torch

    before = torch.optim.AdamW.step

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.5)
        return before(self, *args, **kwargs)

    torch.optim.AdamW.step = slow  # type: ignore[method-assign]
    train(Path(path))


def child_draws_slowly(call: str, store: str, resume: str = "true") -> None:
    """Draw with a rest before every region."""
    _before_each_draw(lambda _: time.sleep(0.5))
    draw(call, store, resume=json.loads(resume))


def child_fails(call: str, store: str) -> None:
    """Draw with an error in the fourth region."""
    from xcvae.errors import StoreError

    regions = 0

    def fail(_: int) -> None:
        nonlocal regions
        # The draws before look for the spread.
        regions += store.startswith("icechunk:") or Path(f"{store}.partial").exists()
        if regions == FAILING_REGION:
            raise MemoryError("no memory for this one")

    _before_each_draw(fail)
    with suppress(StoreError):
        draw(call, store)
        raise AssertionError("no region failed")


def _before_each_draw(what: Callable[[int], None]) -> None:
    import xcvae

    before, count = xcvae.Model.draw, 0

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        what(count)
        return before(self, *args, **kwargs)

    xcvae.Model.draw = patched  # type: ignore[method-assign]


CHILDREN = {
    "train": child_trains_slowly,
    "draw": child_draws_slowly,
    "fail": child_fails,
}


def run(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a child."""
    return subprocess.Popen([sys.executable, __file__, "--child", *arguments])


def kill_when(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    """Kill a child with SIGKILL as soon as a condition holds."""
    while not condition():
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def regions_done(partial: Path) -> int:
    """Count the regions that the journals of an unfinished store list as done."""
    journals = partial.glob("pr/ledger/regions/*.jsonl")
    return sum(text.read_text(encoding="utf-8").count('"done"') for text in journals)


# --- the files -----------------------------------------------------------------------------------


def pack(folder: Path, archive: Path) -> None:
    """Put a folder into a zip file, dotfiles too; equal folders give equal files."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            entry = zipfile.ZipInfo(name, (2026, 11, 26, 0, 0, 0))
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def sha(values: Any) -> str:
    """Return the SHA-256 of the bytes of an array."""
    return hashlib.sha256(values.tobytes()).hexdigest()


def described(values: Any) -> dict[str, Any]:
    """Return what tests compare an ensemble with."""
    return {"sha256": sha(values), "sum": float(values.astype("float64").sum())}


def processor() -> dict[str, str]:
    """Return what decides, besides versions and precision, on the last digits of a draw."""
    import torch

    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    units = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "AuthenticAMD", "GenuineIntel"}
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "units": " ".join(sorted(words & units)),
    }


def make_training() -> tuple[Any, Any]:
    """Write the model, and the checkpoint of a training that was killed."""
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = train(folder / "model.xcvae")
        (folder / "model.xcvae").replace(DATA / "model.xcvae")
        checkpoint = folder / "killed.xcvae.checkpoint"
        kill_when(checkpoint.exists, run("train", str(folder / "killed.xcvae")))
        with safe_open(checkpoint, "pt") as opened:
            progress = json.loads(opened.metadata()["progress"])
        (folder / "training").mkdir()
        checkpoint.replace(folder / "training" / checkpoint.name)
        pack(folder / "training", DATA / "training.zip")
    return model, progress


def make_stores() -> dict[str, Any]:
    """Write finished and unfinished stores, and a catalog of the finished ones."""
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "finished").mkdir()
        for name in ("prior", "posterior"):
            finished = folder / "finished" / f"{name}.zarr"
            listed = {"catalog": finished.with_name("catalog.yaml"), "name": f"{name}4"}
            values = draw(name, finished, **listed).pr.values
            made[name] = described(values)
        for name in CALLS:
            store = folder / "killed" / f"{name}.zarr"
            store.parent.mkdir(exist_ok=True)
            partial, resume = store.with_name(f"{name}.zarr.partial"), "true"
            if name == "replacement":
                made[name] = described(draw(name, folder / "whole.zarr").pr.values)
                draw(name, store, seed=9)
                resume = '"restart"'
            child = run("draw", name, str(store), resume)
            kill_when(lambda partial=partial: regions_done(partial) >= 2, child)
        store = folder / "failed" / "posterior.zarr"
        store.parent.mkdir()
        assert run("fail", "posterior", str(store)).wait() == 0
        assert not store.exists()
        assert regions_done(store.with_name("posterior.zarr.partial")) == REGIONS - 1
        for kind in ("finished", "killed", "failed"):
            pack(folder / kind, DATA / f"{kind}.zip")
    return made


def make_repositories() -> dict[str, Any]:
    """Write a finished and an unfinished Icechunk repository."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "icechunk"
        folder.mkdir()
        values = draw("prior", f"icechunk:{folder / 'finished.icechunk'}").pr.values
        assert run("fail", "prior", f"icechunk:{folder / 'failed.icechunk'}").wait() == 0
        pack(folder, DATA / "icechunk.zip")
    return {"icechunk": described(values)}


def make_seam() -> None:
    """Write a finished and an unfinished store in tiles of the first rule of the seam."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values = draw("seam", folder / "whole.zarr").pr.values
        stores = folder / "stores"
        stores.mkdir()
        draw("seam", stores / "finished.zarr", members=2)
        store = stores / "killed.zarr"
        child = run("draw", "seam", str(store))
        kill_when(lambda: regions_done(store.with_name("killed.zarr.partial")) >= 2, child)
        pack(stores, DATA / "seam.zip")
    made = {
        "commit": COMMITS["seam"],
        "call": SEAM_CALL,
        "finished_members": 2,
        "processor": processor(),
        **described(values),
    }
    (DATA / "seam.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=tuple(COMMITS), default="all")
    parser.add_argument("--child", nargs="+")
    options = parser.parse_args()
    if options.child:
        name, *arguments = options.child
        CHILDREN[name](*arguments)
        return
    import torch

    import xcvae

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    root = Path(xcvae.__file__).parents[1]
    head = ["git", "-C", str(root), "rev-parse", "HEAD"]
    found = subprocess.run(head, capture_output=True, text=True, check=True).stdout
    commit = COMMITS[options.what]
    assert found.startswith(commit), f"{root} is at {found}: run this with the code of {commit}"
    DATA.mkdir(exist_ok=True)
    if options.what == "seam":
        os.environ["XCVAE_PRECISION"] = "float32"
        make_seam()
        return
    model, progress = make_training()
    stores = {**make_stores(), **make_repositories()}
    text = {
        "commit": commit,
        "crop": CROP,
        "learned": LEARNED,
        "drawn": DRAWN,
        "training": TRAINING,
        "calls": CALLS,
        "processor": processor(),
        "model": {
            "sha256": model.sha256,
            "weights": {
                name: sha(w.cpu().numpy()) for name, w in model.network.state_dict().items()
            },
            "history": model.training["history"],
        },
        "checkpoint": progress,
        "stores": stores,
    }
    (DATA / "made.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    for path in sorted(DATA.iterdir()):
        sys.stdout.write(f"{path.stat().st_size:8d} {path.name}\n")


if __name__ == "__main__":
    main()
