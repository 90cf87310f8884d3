"""Files appear complete or not at all, survive a loss of power, and are removed only if ours."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from xcvae import files
from xcvae.errors import ConfigError, OutputExistsError, StoreError, check_flags

RANDOM = "0123456789abcdef0123456789abcdef"


def write_half(path: Path, *, sync: bool = False) -> None:
    """Fail after a part of the content is written."""
    with files.atomic_path(path, sync=sync) as temporary:
        temporary.write_text("half")
        raise RuntimeError("interrupted")


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("old", [None, "old"])
def test_atomic_path_leaves_the_old_file_after_an_exception(tmp_path, old, sync):
    path = tmp_path / "run.json"
    if old is not None:
        path.write_text(old)
    with pytest.raises(RuntimeError, match="interrupted"):
        write_half(path, sync=sync)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["run.json"])
    assert old is None or path.read_text() == old


def test_atomic_path_replaces_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert files.original_name(temporary.name) == "run.json"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_gives_concurrent_writers_different_names(tmp_path):
    path = tmp_path / "run.json"
    with files.atomic_path(path) as one, files.atomic_path(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the context that ends last


def test_atomic_path_reports_a_folder_of_the_same_name(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_text(tmp_path / "run.json", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


ENDLESS = """
import sys
from pathlib import Path
from xcvae.files import write_text
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    write_text(path, f"{number} " * 50_000, sync=sys.argv[2] == "sync")
    if number == 1:
        print("started", flush=True)
"""


@pytest.mark.parametrize("sync", ["sync", "plain"])
def test_file_is_complete_after_sigkill(tmp_path, sync):
    path = tmp_path / "run.json"
    for trial in range(5):
        command = [sys.executable, "-c", ENDLESS, str(path), sync]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"started\n"
            time.sleep(0.01 * trial)
            process.send_signal(signal.SIGKILL)
        words = path.read_text().split()
        assert len(words) == 50_000
        assert len(set(words)) == 1
    files.remove_stale(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def calls(monkeypatch):
    """Names of the files that are synchronised, and renames, in their order."""
    found, fsync, replace = [], os.fsync, os.replace

    def record_fsync(handle):
        found.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def record_replace(source, target, **options):
        found.append(("replace", Path(target).name))
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_sync_waits_for_the_content_before_the_rename_and_for_the_folder_after_it(tmp_path, calls):
    files.write_text(tmp_path / "run.json", "text", sync=True)
    (first, temporary), renamed, (last, folder) = calls
    assert first == last == "fsync"
    assert files.original_name(temporary) == "run.json"
    assert renamed == ("replace", "run.json")
    assert folder == tmp_path.name


def test_no_sync_without_request(tmp_path, calls):
    files.write_text(tmp_path / "run.json", "text")
    assert calls == [("replace", "run.json")]


def test_folder_that_cannot_be_synchronised_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse_folders(handle):
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError("not supported")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    files.write_text(tmp_path / "run.json", "text", sync=True)
    assert (tmp_path / "run.json").read_text() == "text"


def test_write_functions_write_the_same_content_as_pathlib_and_json(tmp_path):
    files.write_bytes(tmp_path / "a", b"\x00\xff")
    files.write_text(tmp_path / "b", "Regen über Köln\n")
    files.write_json(tmp_path / "c", {"seed": 7}, indent=1)
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_text(encoding="utf-8") == "Regen über Köln\n"
    assert json.loads((tmp_path / "c").read_text()) == {"seed": 7}
    assert "\n" in (tmp_path / "c").read_text()


@pytest.mark.parametrize(
    ("name", "original"),
    [
        (f"run.json.{RANDOM}.tmp", "run.json"),
        (f"0.{RANDOM}.partial", "0"),  # of Zarr
        (f"run.json.{RANDOM[:-1]}.tmp", None),
        (f"run.json.{RANDOM.upper()}.tmp", None),
        (f"run.json.{RANDOM}.bak", None),
        (f".{RANDOM}.tmp", None),
        ("notes.tmp", None),
        ("e.zarr.partial", None),
    ],
)
def test_original_name_knows_temporary_files_only(name, original):
    assert files.original_name(name) == original


def test_remove_stale_removes_temporary_files_of_one_file_only(tmp_path):
    stale = tmp_path / f"run.json.{RANDOM}.tmp"
    users = {
        "run.json", "run.json.tmp", "run.json.notes.tmp", f"run.json.{RANDOM[1:]}.tmp",
        f"other.json.{RANDOM}.tmp", f"run.json.{RANDOM}.bak",
    }  # fmt: skip
    for name in (stale.name, *users):
        (tmp_path / name).touch()
    files.remove_stale(tmp_path / "run.json")
    assert {path.name for path in tmp_path.iterdir()} == users


@pytest.mark.parametrize("name", ["e.zarr", "odd [x]?*.zarr"])
def test_stale_siblings_are_hidden_siblings_of_the_same_path(tmp_path, name):
    path = tmp_path / name
    ours = {files.hidden_sibling(path, purpose) for purpose in ("new", "old", "model")}
    assert len(ours) == 3
    users = {
        f".{name}.thesis-0123456789ab", f".{name}.new-notes", f".{name}.new-0123456789abc",
        f".other-{name}.new-0123456789ab", f"{name}.new-0123456789ab", f".{name}.new-0123456789AB",
    }  # fmt: skip
    for sibling in (*ours, *(tmp_path / user for user in users)):
        sibling.mkdir()
    assert set(files.stale_siblings(path)) == ours


def test_hidden_sibling_is_new_each_time(tmp_path):
    found = {files.hidden_sibling(tmp_path / "e.zarr", "new") for _ in range(100)}
    assert len(found) == 100


def test_remove_deletes_links_and_not_their_targets(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "home", target_is_directory=True)
    files.remove(tmp_path / "link")
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    files.remove(tmp_path / "nothing")
    files.remove(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


class Appearing(type(Path())):
    """A folder that another thread makes just after a check found none."""

    def is_file(self) -> bool:
        return super().is_file() or self._appear()

    def is_dir(self) -> bool:
        return super().is_dir() or self._appear()

    def _appear(self) -> bool:
        self.mkdir(exist_ok=True)
        return False


def test_remove_deletes_a_folder_that_appears_meanwhile(tmp_path):
    """Zarr makes folders in a thread of its own, which goes on after Ctrl+C."""
    files.remove(Appearing(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from xcvae.files import locked
with locked(Path(sys.argv[1]), timeout=0, busy=RuntimeError("busy")):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_lock_of_another_process_is_an_error_and_ends_with_that_process(tmp_path):
    path, busy = tmp_path / "e.zarr", StoreError("another process is writing")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        start = time.monotonic()
        with (
            pytest.raises(StoreError, match="another process"),
            files.locked(path, timeout=0.2, busy=busy),
        ):
            pass
        assert 0.2 <= time.monotonic() - start < 60
        with files.locked(tmp_path / "other.zarr", timeout=0, busy=busy):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with files.locked(path, timeout=10, busy=busy):
            assert (tmp_path / ".e.zarr.lock").exists()
    assert list(tmp_path.iterdir()) == []


COUNT = """
import sys
from pathlib import Path
from xcvae.files import locked
file = Path(sys.argv[1])
for _ in range(30):
    with locked(file, timeout=60, busy=RuntimeError("busy")):
        number = int(file.read_text())
        file.write_text("")
        file.write_text(str(number + 1))
"""


def test_lock_whose_file_is_removed_excludes_other_processes(tmp_path):
    file = tmp_path / "number"
    file.write_text("0")
    command = [sys.executable, "-c", COUNT, str(file)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert file.read_text() == "90"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


@pytest.mark.parametrize("content", [b"", b"a", b"x" * 55, b"x" * 3_000_000])
def test_lock_leaves_a_file_of_somebody_else_as_it_is(tmp_path, content):
    file, busy = tmp_path / ".e.lock", StoreError("another process is writing")
    file.write_bytes(content)
    with (
        nullcontext() if not content else pytest.raises(OutputExistsError, match="Move it"),
        files.locked(tmp_path / "e", timeout=0, busy=busy),
        pytest.raises(StoreError),
        files.locked(tmp_path / "e", timeout=0, busy=busy),
    ):
        pass
    assert file.read_bytes() == content


def test_lock_removes_a_file_that_it_made_in_the_place_of_a_removed_one(tmp_path, monkeypatch):
    """Another process, whose lock had made the empty file, removes it at the last moment."""
    file, acquire = tmp_path / ".e.lock", FileLock.acquire
    file.touch()

    def acquire_late(lock, *args, **options):
        file.unlink(missing_ok=True)
        return acquire(lock, *args, **options)

    monkeypatch.setattr(FileLock, "acquire", acquire_late)
    with files.locked(tmp_path / "e", timeout=0, busy=StoreError("another process is writing")):
        assert file.exists()
    assert not file.exists()


def test_lock_leaves_a_file_that_somebody_put_in_its_place(tmp_path):
    file = tmp_path / ".e.lock"
    with files.locked(tmp_path / "e", timeout=0, busy=StoreError("another process is writing")):
        file.unlink()
        file.write_text("mine")
    assert file.read_text() == "mine"


def test_lock_that_a_full_disk_has_no_room_for_is_removed(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            pytest.raises(OSError, match="File too large"),
            files.locked(tmp_path / "e.zarr", timeout=0, busy=StoreError("busy")),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(tmp_path.iterdir())


def test_lock_is_released_after_an_exception(tmp_path):
    busy = StoreError("another process is writing")
    with pytest.raises(RuntimeError), files.locked(tmp_path / "e", timeout=0, busy=busy):
        raise RuntimeError
    with files.locked(tmp_path / "e", timeout=0, busy=busy):
        pass


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_file_sha256_is_size_and_digest(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "chunk").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert files.file_sha256(tmp_path / "chunk") == (size, digest)
    assert files.sha256(content) == digest


def test_is_taken_sees_links_to_nothing(tmp_path):
    assert not files.is_taken(tmp_path / "link")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert files.is_taken(tmp_path / "link")


@pytest.mark.parametrize(
    "text", ["s3://bucket/e.zarr", "s3:/bucket/e.zarr", "https://a.b/c", "file:///e.zarr"]
)
def test_local_path_refuses_addresses(text):
    assert files.is_url(text)
    with pytest.raises(ConfigError, match=r"local file or folder.*mount the remote storage"):
        files.local_path("store", text)


def test_local_path_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.local_path("store", "e.zarr") == tmp_path / "e.zarr"
    assert files.local_path("store", Path("c:d")) == tmp_path / "c:d"
    assert files.local_path("store", None) is None
    with pytest.raises(ConfigError, match=r"got 7.*pathlib\.Path"):
        files.local_path("store", 7)


@pytest.mark.parametrize("value", ["no", "True", None, 2, 0.0])
def test_switches_take_true_and_false_only(value: object) -> None:
    check_flags(pack=True, progress=np.False_, trust=0)
    with pytest.raises(ConfigError, match="pack: expected True or False"):
        check_flags(pack=value)


def test_a_hidden_folder_is_made_while_another_call_looks_at_its_lock(tmp_path, monkeypatch):
    """Calls remove folders whose locks are free; that of a new one is, for a moment."""
    new, busy = tmp_path / ".out.new-0123456789ab", RuntimeError("held")
    monkeypatch.setattr(files, "hidden_sibling", lambda *_: new)
    held, done = threading.Event(), threading.Event()

    def look() -> None:
        with files.locked(new, timeout=0, busy=busy):
            held.set()
            done.wait(0.3)

    other = threading.Thread(target=look)
    other.start()
    held.wait()
    with files.hidden_folder(tmp_path / "out") as made:
        assert made.is_dir()
    other.join()
    assert not list(tmp_path.iterdir())
