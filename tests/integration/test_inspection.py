"""An operator inherits a folder: what it holds, whether it is intact, data for other networks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import xcvae
from xcvae import config, pipeline
from xcvae.cli import main
from xcvae.ensemble import catalog
from xcvae.errors import ConfigError
from xcvae.files import GRIB, NETCDF

CONFIG = """
data:
  path: rain.zarr
  train: {split: 0}
  test: {split: 2}
output: out
train:
  target: pr
  coarsen: 12
  generator: {channels: [8, 8], latents: [2, 1]}
  fit: {max_steps: 2, batch_size: 2, crop: 24, validations: 1}
sample:
  - {name: prior, members: 2}
evaluate: {metrics: [crps, ks], baselines: [bilinear], groupby: [time.season, split]}
criteria: {prior: {ks: [null, 0.99]}}
figures: [svg]
diagnose: null
"""


@pytest.fixture(scope="module")
def made(radar: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on 20 small frames."""
    folder = tmp_path_factory.mktemp("run")
    rain = radar[["pr"]].isel(time=slice(0, None, 25), y=slice(48, 96), x=slice(48, 84))
    rain.drop_encoding().to_zarr(folder / "rain.zarr", consolidated=False)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    pipeline.run(config.load(folder / "config.yaml"), progress=False)
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "moved" / "out"))


def test_catalog_of_a_run_lists_the_real_samples_with_their_conditions(out: Path) -> None:
    file = out / "catalog.yaml"
    assert catalog.names(file) == ["prior", "test", "train"]
    about = catalog.metadata_of(file, "train")
    assert about["split"] == "train"
    assert about["samples"] == about["sizes"]["time"] > 5
    assert about["conditions"] == {"pr_coarse": "mm h-1"}
    assert about["period"][0] < about["period"][1]
    assert about["license"]
    assert about["source"]
    assert 0 < about["heavy_share"] < about["wet_share"] < 1
    prior = catalog.metadata_of(file, "prior")
    assert prior["samples"] == catalog.metadata_of(file, "test")["samples"]
    assert prior["period"] == catalog.metadata_of(file, "test")["period"]
    assert prior["license"]
    assert 0 <= prior["wet_share"] <= 1
    ds = catalog.open_entry(file, "train")
    assert ds.pr_coarse.dims[0] == ds.pr.dims[0] == "time"


PAIRS = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "xcvae":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
import warnings
warnings.simplefilter("error")
import intake, torch, xarray as xr
entries = intake.open_catalog(sys.argv[1])
real, ensemble = entries["test"].read(), entries["prior"].read()
conditions = real.pr_coarse.sel(time=ensemble.time)
x, y = torch.from_numpy(conditions.values), torch.from_numpy(ensemble.pr.values)
assert len(x) == y.shape[1] and y.isfinite().all()
for name in ("data/test.zarr", "prior.zarr"):
    xr.open_zarr(sys.argv[1].replace("catalog.yaml", name))
"""


def test_pairs_are_read_and_stores_opened_without_xcvae_and_without_a_warning(out: Path) -> None:
    subprocess.run([sys.executable, "-c", PAIRS, str(out / "catalog.yaml")], check=True)


def test_folder_has_a_readme_and_no_lock_files(out: Path) -> None:
    text = (out / "README.txt").read_text(encoding="utf-8")
    for wanted in ("xcvae verify .", "model.xcvae", "prior.zarr", "mm h-1", "criteria met"):
        assert wanted in text
    assert not [path for path in out.rglob("*") if path.name.endswith(".lock")]
    (out / "README.txt").write_text("mine", encoding="utf-8")
    pipeline.info.__globals__["write_readme"](out)
    assert (out / "README.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("", ["output of a run", "criteria met", "xcvae verify", "2, numbers 0 to 1"]),
        ("model.xcvae", ["pr [mm h-1], 48 x 36", "pr_coarse [mm h-1]", "xcvae sample"]),
        ("prior.zarr", ["an ensemble", "mode prior", "period", "licence", "xcvae verify"]),
        ("catalog.yaml", ["3 entries", "entry 'train'", "wet ", "scores", "intake"]),
        ("data/train.zarr", ["samples in a Zarr store", "pr [mm h-1]", "period", "xcvae init"]),
    ],
)
def test_info_says_what_a_path_holds(
    out: Path, name: str, wanted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(out / name)]) == 0
    text = capsys.readouterr().out
    for words in wanted:
        assert words in text


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({"selected": 2}, 0.2), ({}, 0.1), ({"selected": 2, "weights": "last"}, 0.3)],
)
def test_info_shows_the_scores_of_the_weights_in_the_file(
    out: Path, tmp_path: Path, changes: dict[str, Any], shown: float
) -> None:
    model = xcvae.load(out / "model.xcvae")
    assert model.training.pop("selected") == 2  # files of earlier versions lack it
    rows = [{"step": n, "val_crps": n / 10} for n in (1, 2, 3)]
    model.training |= {"weights": "best", "history": rows, **changes}
    model.save(tmp_path / "edited.xcvae")
    assert f"validation  crps {shown}" in pipeline.info(str(tmp_path / "edited.xcvae"))


def test_info_reads_the_folder_that_the_user_is_in(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out)
    assert main(["info", "."]) == 0
    assert "output of a run" in capsys.readouterr().out


def test_info_describes_a_model_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "rain-radar"]) == 0
    text = capsys.readouterr().out
    for words in ("rain-radar: a model", "--model rain-radar", "xcvae models rain-radar"):
        assert words in text


def test_info_refuses_what_is_not_of_xcvae(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for path in (tmp_path / "notes.txt", tmp_path / "nothing", tmp_path):
        assert main(["info", str(path)]) == 1
        assert "expected a run, a model, a store" in capsys.readouterr().err
    (tmp_path / "rain.nc").write_text("CDF", encoding="utf-8")
    assert main(["info", str(tmp_path / "rain.nc")]) == 1
    assert f"xcvae init {tmp_path / 'rain.nc'}" in capsys.readouterr().err


def test_verify_checks_all_in_a_folder(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(out)]) == 0
    text = capsys.readouterr().out
    for words in ("model as it was written", "regions as they were written", "all values readable",
                  "3 of 3 entries can be opened", "no problem found"):  # fmt: skip
        assert words in text
    content = bytearray((out / "model.xcvae").read_bytes())
    content[-1] ^= 1
    (out / "model.xcvae").write_bytes(content)
    chunk = next(path for path in (out / "prior.zarr/pr/c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    shutil.rmtree(out / "data" / "test.zarr")
    assert main(["verify", str(out)]) == 1
    text = capsys.readouterr().out
    assert "do not match their checksum" in text
    assert "prior.zarr: not as it was written" in text
    assert "entry 'test'" in text
    assert "3 problems" in text


def test_remove_and_prune_forget_entries(out: Path) -> None:
    file = out / "catalog.yaml"
    catalog.remove(file, "train")
    assert catalog.names(file) == ["prior", "test"]
    assert (out / "data" / "train.zarr").exists()
    assert catalog.prune(file) == []
    shutil.rmtree(out / "prior.zarr")
    assert catalog.prune(file) == ["prior"]
    assert catalog.names(file) == ["test"]
    with pytest.raises(Exception, match="expected the name of an entry, got 'prior'"):
        catalog.remove(file, "prior")
    catalog.append(file, "again", out / "data" / "train.zarr")
    assert catalog.metadata_of(file, "again")["variable"] == "pr"


def test_plain_intake_names_the_missing_store(out: Path) -> None:
    import intake

    shutil.rmtree(out / "prior.zarr")
    with pytest.raises(FileNotFoundError, match=r"prior\.zarr"):
        intake.open_catalog(str(out / "catalog.yaml"))["prior"].read()


def test_report_has_groups_captions_and_figures_in_other_formats(out: Path) -> None:
    head = (out / "report" / "prior-groups.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("score,units,season,split,xcvae,xcvae_low,xcvae_high,bilinear")
    captions = (out / "report" / "captions.txt").read_text(encoding="utf-8")
    for file in (out / "report").glob("*.png"):
        assert file.with_suffix(".svg").stat().st_size > 1000
        assert file.name in captions
    assert "Rank histogram. Flat" in captions


def test_scores_of_the_run_are_in_the_catalog(out: Path) -> None:
    scores = catalog.metadata_of(out / "catalog.yaml", "prior")["scores"]
    summary = json.loads((out / "report" / "summary.json").read_text(encoding="utf-8"))
    assert "ks" in scores
    assert set(scores) == {one["name"] for one in summary["criteria"]["prior"]}


@pytest.mark.parametrize("ending", [*NETCDF, *GRIB])
def test_info_sends_data_of_every_kind_to_init(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rain{ending}"
    file.write_bytes(b"anything")
    with pytest.raises(ConfigError, match="Data are described by: xcvae init"):
        pipeline.info(str(file))
