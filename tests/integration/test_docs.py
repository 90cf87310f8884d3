"""The code of the documentation runs, in its order, with tiny limits."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.cli import main

from ..support.code import run_code

DOCS = Path(__file__).parents[2] / "docs"
#: Enough for the code to be run, far too little for a good model.
TINY = 'generator={"levels": 2, "channels": [8, 8], "latents": [2, 1]}, fit={"max_steps": 3, '
TINY += '"batch_size": 2, "crop": 24, "validations": 1}'


def code_of(page: str, **replacements: str) -> str:
    """Join the Python blocks of a page; every replacement must have something to replace."""
    text = (DOCS / page).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    for old, new in replacements.items():
        assert old in code, f"{page} no longer has {old!r}"
        code = code.replace(old, new)
    return code


FEWER = {'fit={"max_minutes": 3}': TINY, "members=8": "members=2"}


def test_page_quickstart_runs(tmp_path: Path) -> None:
    tiny = {
        **FEWER,
        "ds.split == 0)": "ds.split == 0).isel(time=slice(None, None, 10))",
        "None, None, 4)": "None, None, 25)",
        "validation=validation": "validation=validation[dict(time=slice(4))]",
        # A model of three steps has no diversity to ask for.
        "diversity=0.2": "spread=0.5",
    }
    printed = run_code(code_of("quickstart.md", **tiny), tmp_path)
    assert "Verdict:" in printed
    assert "'realization': 2, 'time': 4" in printed
    for made in ("model.xcvae", "prior.zarr", "catalog.yaml", "members.png"):
        assert (tmp_path / made).exists()


def test_page_init_shows_the_configuration_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "init.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run_code(code_of("init.md"), tmp_path)
    commands = [line.split() for line in page.splitlines() if line.startswith("xcvae init ")]
    for command, shown in zip(commands, ("init.yaml", "init-climate.yaml"), strict=True):
        assert main(command[1:]) == 0
        written = (tmp_path / command[-1]).read_text(encoding="utf-8")
        assert written == (DOCS / "data" / shown).read_text(encoding="utf-8")
        assert main(["run", command[-1], "--check"]) == 0


def test_page_hand_over_trains_a_network(tmp_path: Path) -> None:
    tiny = {
        **FEWER,
        "time=xcvae.heavy(train)": "time=slice(0, 60, 10)",
        "range(5)": "range(2)",
        "fraction=0.2": "fraction=0.02",
    }
    printed = run_code(code_of("hand-over.md", **tiny), tmp_path)
    for line in (
        "mm h-1 ['realization', 'time', 'y', 'x'] 0",
        "['rain/storms8']",
        "<xcvae.Loader pr: 36 samples per epoch, 24 of 'real', 12 of 'storms8'>",
    ):
        assert line in printed
    assert re.search(r"{'crps': [\d.]+, 'mass_bias': [-\d.]+}", printed)
    losses = [float(found) for found in re.findall(r"^\d (\d+\.\d+)$", printed, re.MULTILINE)]
    assert len(losses) == 2
    assert "7 of 330" in printed


def test_page_sequences_scores_members_that_evolve(tmp_path: Path) -> None:
    tiny = {
        'fit={"max_minutes": 3}': TINY,
        "members=8": "members=2",
        '"radklim-sequence").load()': '"radklim-sequence").load().isel(time=slice(12))',
        "ens.isel(time=slice(12))": "ens.isel(time=slice(3))",
    }
    printed = run_code(code_of("sequences.md", **tiny), tmp_path)
    assert printed.count("[") >= 3
    for made in ("strip.png", "members.gif"):
        assert (tmp_path / made).exists()


def test_page_augmentation_prints_verdicts(tmp_path: Path) -> None:
    tiny = {
        **FEWER,
        "None, None, 20)": "None, None, 60)",
        "split.values == 2)": "split.values == 2)[dict(time=slice(None, None, 20))]",
        "seeds=5": 'seeds=2, network={"steps": 2}',
    }
    printed = run_code(code_of("augmentation.md", **tiny), tmp_path)
    assert "heads P99, P99.9" in printed
    for recipe in ("both", "amplified", "scaled"):
        assert len(re.findall(rf"^  {recipe} ", printed, re.MULTILINE)) == 5 * 3 * 3


def test_page_zero_shot_divides_cells(tmp_path: Path, any_factor_model: xcvae.Model) -> None:
    rain = np.random.default_rng(0).gamma(0.5, 2.0, (1, 3, 4)).astype("float32")
    attrs = {"units": "mm h-1", "standard_name": "lwe_precipitation_rate"}
    lat, lon = 50 - 0.1 * np.arange(3), 10 + 0.1 * np.arange(4)
    xr.Dataset(
        {"tp": (("time", "latitude", "longitude"), rain, attrs)},
        {"time": np.array(["2020-01-01"], "M8[ns]"), "latitude": lat, "longitude": lon},
    ).to_netcdf(tmp_path / "coarse.nc", engine="scipy")
    tiny = {
        '"rain-radar"': repr(str(any_factor_model.path)),
        'generator={"constrain": True}, fit={"max_minutes": 30}': TINY,
        "members=16": "members=2",
        "record.split == 0": "slice(4)",
        '"factor": [2, 16], "pixel": [1, 4]': '"factor": [2, 3]',
    }
    run_code(code_of("zero-shot.md", **tiny) + "\nfine.load()\nassert model.spec.scales", tmp_path)


def test_page_start_trains_from_a_model(tmp_path: Path) -> None:
    tiny = 'fit={"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1}'
    sizes = 'generator={"levels": 2, "channels": [8, 8], "latents": [2, 1]}, path="known.xcvae"'
    replaced = {'fit={"max_steps": 2}': tiny, 'path="known.xcvae"': sizes}
    printed = run_code(code_of("start.md", **replaced), tmp_path)
    assert "100% of them from known.xcvae" in printed


def test_page_own_data_runs_with_masked_observations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    days = np.arange("2000-01-01", "2011-01-01", 90, dtype="datetime64[D]")
    time = days.astype("datetime64[ns]")
    lat, lon = 39.0 + 0.05 * np.arange(23), 1.0 + 0.05 * np.arange(31)
    rain = rng.gamma(0.4, 8 / 86400, (time.size, lat.size, lon.size)).astype("float32")
    rain[:, :6] = np.nan
    xr.Dataset(
        {"pr": (("time", "lat", "lon"), rain, {"units": "kg m-2 s-1"})},
        {"time": time, "lat": lat, "lon": lon},
    ).to_netcdf(tmp_path / "observed.nc", engine="scipy")
    coarse = {"time": time, "lat": 30 + 2.5 * np.arange(7), "lon": -10 + 2.5 * np.arange(9)}
    fields = rng.normal(size=(2, time.size, 7, 9))
    gcm = {
        "psl": (("time", "lat", "lon"), 1e5 + 500 * fields[0], {"units": "Pa"}),
        "t850": (("time", "lat", "lon"), 280 + 5 * fields[1], {"units": "K"}),
    }
    xr.Dataset(gcm, coarse).to_netcdf(tmp_path / "gcm.nc", engine="scipy")
    tiny = {'fit={"max_minutes": 20}': TINY, "members=16": "members=2"}
    run_code(code_of("own-data.md", **tiny), tmp_path)
    ensemble = xr.open_zarr(tmp_path / "island.zarr", consolidated=False)
    assert ensemble.pr.attrs["units"] == "kg m-2 s-1"
    assert ensemble.pr.sizes["realization"] == 2


def test_page_scenarios_writes_table_and_member_files(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "data" / "make_island.py"))["make"](tmp_path, years=2)
    code = code_of("scenarios.md")
    assert len(code.splitlines()) <= 60
    tiny = {
        'fit={"max_minutes": 3}': TINY,
        "members=20": "members=2",
        "year == year[-1])": "year == year[-1]).isel(time=slice(None, None, 12))",
        "> ds.time[-1])": "> ds.time[-1]).isel(time=slice(60))",
    }
    printed = run_code(code_of("scenarios.md", **tiny), tmp_path)
    assert "int16 mm" in printed
    assert "2 pr_r000.nc" in printed
    table = (tmp_path / "monthly.csv").read_text(encoding="utf-8").splitlines()
    assert [line.partition(",")[0] for line in table] == [
        "time",
        "2003-01-01",
        "2003-02-01",
        "2003-03-01",
    ]
    member = xr.open_dataset(tmp_path / "members" / "pr_r001.nc", engine="netcdf4")
    assert member.pr.encoding["dtype"] == np.int16
    assert member.pr.attrs["units"] == "mm"
    member.close()


def test_page_from_scripts_converts_normalised_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rain = rng.gamma(0.4, 8, (20, 9, 7)).astype("float32")
    rain[:, 0, :3] = np.nan
    logs = np.log1p(rain)
    mean, std = logs.mean(0), logs.std(0)
    old = tmp_path / "old_data"
    (old / "days").mkdir(parents=True)
    np.save(old / "mean.npy", mean)
    np.save(old / "std.npy", std)
    first = np.datetime64("2001-01-01")
    for day, field in enumerate((logs - mean) / std):
        np.save(old / "days" / f"{first + day}.npy", field)
    run_code(code_of("from-scripts.md"), tmp_path)
    ds = xr.open_zarr(tmp_path / "rain.zarr", consolidated=False)
    np.testing.assert_allclose(ds.pr.values, rain, atol=1e-4)
    assert ds.time.values[3] == np.datetime64("2001-01-04")
    # It is what xcvae takes: dims and units are found.
    assert xcvae.heavy(ds, extent=0.2).sizes == {"time": 20}


RUN = """
data: {tutorial: radklim, train: {split: 0, time: {step: 30}}, test: {split: 2, time: {step: 12}}}
output: run
train:
  target: pr
  conditions: [pr_coarse]
  generator: {levels: 2, channels: [8, 8], latents: [2, 1]}
  fit: {max_steps: 2, batch_size: 2, crop: 24, validations: 1}
sample:
  - {name: prior, members: 2, samples: {split: 1, time: {step: 20}}}
  - {name: storms, part: train, members: 2}
evaluate: {metrics: [crps, ks], baselines: []}
diagnose: null
"""


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """Run a small configuration, as somebody else would have."""
    (tmp_path / "config.yaml").write_text(RUN, encoding="utf-8")
    for step in ("train", "sample"):
        assert main([step, str(tmp_path / "config.yaml")]) == 0
    return tmp_path


def test_page_train_networks_needs_no_xcvae(finished_run: Path) -> None:
    code = code_of("train-networks.md")
    assert "xcvae" not in code
    assert len(code.splitlines()) <= 60
    printed = run_code(code, finished_run)
    assert re.search(r"\d+ pairs, \d+ of them real", printed)
    assert "error on real test samples" in printed


def test_page_operate_extends_a_run(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "operate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert sum(len(block.splitlines()) for _, block in blocks) <= 60
    monkeypatch.chdir(finished_run)
    fewer = {
        "data.split == 1)": "np.flatnonzero(data.split == 1)[::20])",
        "data.split == 2)": "np.flatnonzero(data.split == 2)[::30])",
        "import shutil": "import shutil\nimport numpy as np",
        "range(4, 8)": "range(2, 4)",
        'shutil.rmtree("run/data/validation.zarr")': "",
    }
    for line in blocks[0][1].splitlines():  # info and verify
        assert main(line.split()[1:]) == 0
    code = code_of("operate.md", **fewer)
    printed = run_code(code, finished_run)
    assert "'realization': 4" in printed
    assert "CRPS" in printed
    assert "pr_r000.nc 4" in printed
    assert "[] ['prior', 'storms', 'test']" in printed
    assert main(["verify", "run"]) == 0


def test_page_bundled_data_describes_the_data(tmp_path: Path) -> None:
    code = code_of("bundled-data.md").replace("ds =", "import xcvae\nds =")
    checks = (
        "\nassert ds.pr.shape == (490, 156, 132) and ds.pr_coarse.shape == (490, 13, 11)"
        "\nassert ds.pr.units == ds.pr_coarse.units == 'mm h-1'"
        "\nassert set(ds.split.values) == {0, 1, 2}"
    )
    run_code(code + checks, tmp_path)


def test_commented_configuration_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "config.yaml").read_text(encoding="utf-8")
    tiny = {
        "max_minutes: 3.0": "max_steps: 3",
        "generator:\n    preset: small": "generator: {levels: 1, channels: [8], latents: [2]}",
        "batch_size: 8": "batch_size: 2",
        "crop: 72": "crop: 24",
        "diversity: 0.2": "spread: 0.5",
        "{split: 0}": "{split: 0, time: {step: 20}}",
        "{split: 1} ": "{split: 1, time: {step: 30}} ",
        "step: 5": "step: 20",
        "members: 8": "members: 2",
    }
    for old, new in tiny.items():
        assert old in text
        text = text.replace(old, new)
    config = tmp_path / "config.yaml"
    config.write_text(text, encoding="utf-8")
    assert main(["run", str(config)]) == 0
    said = capsys.readouterr().out
    assert "posterior:" in said
    assert "spectral_distance" not in said.partition("prior:")[2]  # dropped by the configuration
    assert (tmp_path / "run" / "catalog.yaml").exists()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_yaml_and_python_blocks_of_the_pages_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        compile(block, page.name, "exec")
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text):
        assert (page.parent / link).exists(), f"{page.name} points to {link}"
