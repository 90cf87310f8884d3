"""``verify_store`` finds changed and lost files, and values of another model or other data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from xcvae.cli import main
from xcvae.ensemble.sample import sample
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import ComponentError, ConfigError, MismatchError, StoreError
from xcvae.files import file_sha256

MADE = {"members": 4, "seed": 7, "chunks": {"realization": 2, "time": 2}, "progress": False}


@pytest.fixture(scope="module")
def written(few, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "e.zarr"
    sample(few, model, store=path, mode="posterior", spread=0.3, **MADE)
    return path


@pytest.fixture
def store(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "e.zarr"))


def test_untouched_store_is_intact_and_redraws_bit_for_bit(store, few, model):
    found = verify_store(store)
    assert found.ok
    assert str(found) == f"{store}: finished, 6 of 6 regions as they were written"
    again = verify_store(store, ds=few, model=model, sample=6)
    assert again.ok
    assert again.redrawn == (0, 1, 2, 3, 4, 5)
    assert "6 equal bit by bit" in str(again)


def test_random_regions_are_redrawn_from_larger_data(store, storms, few, model):
    seen = {verify_store(store, ds=storms, model=model, sample=2, seed=s).redrawn for s in range(4)}
    assert {len(chosen) for chosen in seen} == {2}
    assert len(seen) > 1


def test_changed_bit_and_lost_file_are_damaged_regions(store):
    changed, lost = store / "pr/c/0/1/0/0", store / "pr/c/1/2/0/0"
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    lost.unlink()
    found = verify_store(store)
    assert not found.ok
    assert found.damaged.keys() == {1, 5}
    assert "content has changed" in found.damaged[1]
    assert "No such file" in found.damaged[5]
    assert "4 of 6 regions" in str(found)


@pytest.mark.parametrize("name", ["zarr.json", "pr/zarr.json", "time/c/0", "x/zarr.json"])
def test_changed_metadata_and_coordinates_are_reported(store, few, model, name):
    content = bytearray((store / name).read_bytes())
    content[-2] ^= 1
    (store / name).write_bytes(content)
    found = verify_store(store, ds=few, model=model)
    assert not found.ok
    assert found.changed == {name: "its content has changed"}
    assert f"damaged: file {name} (its content has changed)" in str(found)
    assert 'resume="repair"' in str(found)
    (store / name).unlink()
    assert "No such file" in verify_store(store).changed[name]


def test_forged_values_with_matching_checksum_are_different(few, model, tmp_path):
    path = tmp_path / "e.zarr"
    sample(few, model, store=path, **MADE)
    array = zarr.open_array(path / "pr", mode="r+")
    array[0, 0, 5, 5] += 1.0
    ledger = path / "pr/ledger/regions.jsonl"
    size, sha256 = file_sha256(path / "pr/c/0/0/0/0")
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    lines[0] |= {"bytes": size, "sha256": sha256}
    ledger.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert verify_store(path).ok
    found = verify_store(path, ds=few, model=model, sample=6)
    assert not found.ok
    assert found.different.keys() == {0}
    assert "by up to 1" in found.different[0]


def test_store_with_solved_spread_redraws_bit_for_bit(storms, few, model, tmp_path):
    path = tmp_path / "e.zarr"
    sample(storms, model, store=path, mode="posterior", diversity=0.15, members=2, progress=False)
    assert verify_store(path, ds=storms, model=model, sample=1).ok


def test_other_data_and_wrong_arguments_are_refused(store, few, model):
    moved = few.assign_coords(x=few.x + 1.0)
    with pytest.raises(MismatchError, match=r"verify: .* data \(stored"):
        verify_store(store, ds=moved, model=model)
    with pytest.raises(MismatchError, match="data without 5 of them"):
        verify_store(store, ds=few.isel(time=[0]), model=model)
    with pytest.raises(ConfigError, match="both model and data"):
        verify_store(store, ds=few)
    with pytest.raises(ConfigError, match="sample=0"):
        verify_store(store, ds=few, model=model, sample=0)


def test_unregistered_postprocessor_must_be_given_again(few, model, tmp_path):
    def halve(field, context):
        return field * 0.5

    path = tmp_path / "e.zarr"
    with xr.set_options(keep_attrs=True):
        sample(few, model, store=path, postprocess=[halve], **MADE)
        with pytest.raises(ComponentError):
            verify_store(path, ds=few, model=model)
        assert verify_store(path, ds=few, model=model, postprocess=[halve], sample=1).ok


def test_unfinished_store_is_not_ok_and_names_missing_regions(few, model, tmp_path):
    def fuse(field, context):
        if few.time.values[0] in field.time.values and field.values.any():
            raise RuntimeError("the fuse blew")
        return field

    path = tmp_path / "e.zarr"
    with pytest.raises(StoreError):
        sample(few, model, store=path, postprocess=[fuse], **MADE)
    found = verify_store(path)
    assert not found.ok
    assert found.store == tmp_path / "e.zarr.partial"
    assert found.missing.keys() == {0, 3}
    assert "the fuse blew" in str(found)
    assert "not finished, 4 of 6" in str(found)


def test_missing_store_and_foreign_store_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no store of that name"):
        verify_store(tmp_path / "e.zarr")
    xr.Dataset({"a": ("x", np.zeros(3))}).to_zarr(tmp_path / "e.zarr", consolidated=False)
    with pytest.raises(StoreError, match="a store with a ledger, got one without"):
        verify_store(tmp_path / "e.zarr")


def test_command_verify_reports_and_sets_the_exit_code(store, few, model, tmp_path, capsys):
    assert main(["verify", str(store)]) == 0
    assert "6 of 6 regions" in capsys.readouterr().out
    few.drop_encoding().to_zarr(tmp_path / "few.zarr", consolidated=False)
    command = ["verify", str(store), "--model", str(model.path), "--sample", "3", "--data"]
    assert main([*command, str(tmp_path / "few.zarr")]) == 0
    assert "drawn again: 3" in capsys.readouterr().out
    assert main([*command, "radklim"]) == 1  # another domain
    assert "data (stored" in capsys.readouterr().err
    (store / "pr/c/0/0/0/0").unlink()
    assert main(["verify", str(store)]) == 1
    assert "damaged: region 0" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nothing.zarr")]) == 1
    assert "no store of that name" in capsys.readouterr().err
