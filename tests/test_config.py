"""The configuration: what it takes, what it refuses and how it says so; the data it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xcvae import config
from xcvae.config.data import select
from xcvae.ensemble import catalog
from xcvae.errors import (
    ConfigError,
    EmptySelectionError,
    MissingVariableError,
    XcvaeError,
)

DATA = {"tutorial": "radklim", "test": {"split": 2}}


def content(**sections: Any) -> dict[str, Any]:
    return {"data": DATA, "output": "out", **sections}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def days() -> xr.Dataset:
    """Three years of daily rain on a tiny grid, with a label of another kind."""
    time = np.arange("2001-01-01", "2004-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    rain = np.random.default_rng(0).gamma(0.5, 4, (time.size, 8, 6)).astype("float32")
    return xr.Dataset(
        {"pr": (("time", "y", "x"), rain, {"units": "mm/day"})},
        coords={"time": time, "fold": ("time", np.arange(time.size) % 5)},
    )


def test_schema_defaults_equal_those_of_the_python_api() -> None:
    found = config.parse(content(train=None))
    assert found.sample[0].name == "prior"
    assert found.sample[0].arguments()["members"] == 16
    assert found.train.arguments()["seed"] == 0
    assert found.evaluate.baselines is None
    assert found.diagnose is not None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([], "configuration: expected keys and values"),
        ({"output": "x"}, "the key 'data' is required"),
        (content(tran={}), "unknown key 'tran'. Did you mean 'train'?"),
        (content(folder="x"), "unknown key 'folder'"),
        (content(train={"sed": 1}), "train: unknown key 'sed'. Did you mean 'seed'?"),
        (content(train={"seed": "a"}), "train, parameter 'seed': expected an integer, got 'a'"),
        (content(train={"seed": -1}), "train.seed: expected an integer >= 0, got -1"),
        (content(train={"fit": {"max_step": 3}}), "train.fit: unknown key 'max_step'. Did you mea"),
        (content(train={"fit": {"crop": "x"}}), "train.fit.crop: expected an integer"),
        (content(train={"validation": 1.5}), "train.validation: expected a share"),
        (content(train=3), "train: expected keys and values"),
        (content(sample=None), "sample: expected a list"),
        (content(data=None), "expected one of tutorial, path, intake and sources"),
        (content(sample={"name": "a"}), "sample: expected a list"),
        (content(sample=[{"mode": "prior"}]), r"sample\[0\]: the key 'name' is required"),
        (content(sample=[{"name": "a", "mode": "post"}]), "expected one of 'prior', 'posterior'"),
        (content(sample=[{"name": "a", "members": 0}]), r"sample\[0\].members: expected an int"),
        (content(sample=[{"name": "a", "spread": 0.5}]), r"sample\[0\].spread: expected None"),
        (content(sample=[{"name": "../a"}]), r"sample\[0\].name: expected letters, digits"),
        (content(sample=[{"name": "prior 64"}]), r"sample\[0\].name: expected letters, digits"),
        (content(sample=[{"name": "a"}, {"name": "a"}]), "sample: expected a different name"),
        (content(diagnose={"members": 1}), "diagnose.members: expected an integer >= 2"),
        (content(plugins="mine"), "expected a list of"),
        ({"data": {}, "output": "x"}, "one of tutorial, path, intake and sources, got none"),
        ({"data": {"tutorial": "a", "path": "b"}, "output": "x"}, "got tutorial and path"),
        ({"data": {"intake": {"catalog": "c"}}, "output": "x"}, "data.intake: the key 'name'"),
        (
            {"data": {**DATA, "validation": {"split": 1}}, "output": "x",
             "train": {"validation": 0.1}},
            "validation: expected either samples",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_key_in_the_file(wrong: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.parse(wrong)


def test_yaml_reads_exponents_as_numbers_and_dates_as_text(tmp_path: Path) -> None:
    text = """
data: {tutorial: radklim, test: {time: [2018-05-17, 2018-05-20]}}
output: out
train: {fit: {learning_rate: 1e-3, weight_decay: 1.5E-4}}
"""
    found = config.load(write(tmp_path, text), {"train.fit.max_steps": 7, "train.seed": 3})
    assert found.train.fit == {"learning_rate": 1e-3, "weight_decay": 1.5e-4, "max_steps": 7}
    assert found.train.seed == 3
    assert found.data.test == {"time": ["2018-05-17", "2018-05-20"]}
    assert found.output_folder == tmp_path / "out"


NUMBERS = {
    "0": 0, "-0": 0, "7": 7, "+7": 7, "1_000": 1000, "0x1F": 31, "0b11": 3, "0o17": 15, "1.": 1.0,
    "1.5": 1.5, ".5": 0.5, "-.5": -0.5, "1.5e3": 1500.0, ".5e1": 5.0, "1e3": 1000.0,
    "1E-3": 0.001, "-.INF": -np.inf,
}  # fmt: skip
TEXTS = ("12:30", "1:30.5", "010", "007", "-012", "08:15:00", "1.2.3", "e3", "1e", "0x", "1h", "_1")


def test_yaml_reads_times_of_day_and_leading_zeros_as_text(tmp_path: Path) -> None:
    """They were 750 and 8; all other numbers are those of PyYAML."""
    entries = "".join(f"k{number}: {text}, " for number, text in enumerate((*NUMBERS, *TEXTS)))
    text = f"data: {{path: a, backend_kwargs: {{{entries}}}}}\noutput: out\n"
    options = config.load(write(tmp_path, text)).data.backend_kwargs
    assert options is not None
    found = list(options.values())
    assert found == [*NUMBERS.values(), *TEXTS]
    assert [type(one) for one in found] == [type(one) for one in (*NUMBERS.values(), *TEXTS)]
    for option in ("members: 010", "temperature: 1:30"):
        text = f"data: {{tutorial: radklim}}\noutput: out\nsample: [{{name: a, {option}}}]\n"
        with pytest.raises(ConfigError, match="expected a"):
            config.load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {tutorial: a\n", "not valid YAML"),
        ("output: a\noutput: b\n", "line 2: duplicate key 'output'"),
        ("data: {path: {{ DATA }}}\n", "line 1: .* is no key. Templates"),
        ("output: 3\ndata: {tutorial: radklim}\n", "config.yaml: configuration, parameter 'outp"),
    ],
)
def test_invalid_yaml_names_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.load(write(tmp_path, text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*No such file"):
        config.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({}, 1095),
        ({"time": 2002}, 365),
        ({"time": "2002-02"}, 28),
        ({"time": "2002-02-03"}, 1),
        ({"time": ["2001-12-31", "2002-01-02"]}, 3),
        ({"time": ["2001", "2002", "2003"]}, 1095),
        ({"time": {"start": "2003-12-30"}}, 2),
        ({"time": {"stop": 2001, "step": 100}}, 4),
        ({"time": {"step": 3}, "fold": {"step": 2}}, 183),
        ({"fold": 0}, 219),
        ({"fold": [0, 1]}, 438),
        ({"fold": {"start": 3}}, 438),
        ({"fold": {"start": 1, "stop": 3}}, 657),
        ({"fold": 0, "time": 2001}, 73),
    ],
)
def test_select_chooses_samples_by_label(
    days: xr.Dataset, selection: dict[str, Any], count: int
) -> None:
    assert select(days, selection, "time", "data.test").sizes["time"] == count


@pytest.mark.parametrize(
    ("selection", "error", "words"),
    [
        ({"fol": 0}, MissingVariableError, "Did you mean 'fold'?"),
        ({"fold": 9}, EmptySelectionError, "data.test.fold: expected labels from 0 to 4, got 9"),
        ({"time": 1990}, EmptySelectionError, "got 1990"),
        ({"fold": 0, "time": "2001-01-02"}, EmptySelectionError, "no sample fulfils all"),
        ({"time": "soon"}, ConfigError, "Write times as 2005"),
        ({"fold": {"start": "a"}}, ConfigError, "expected labels such as 0"),
        ({"time": {"form": 1}}, ConfigError, "unknown key 'form'"),
        ({"time": {"step": 0}}, ConfigError, "data.test.time.step: expected an integer >= 1"),
    ],
)
def test_select_refuses_invalid_selections(
    days: xr.Dataset, selection: dict[str, Any], error: type[XcvaeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        select(days, selection, "time", "data.test")


def parts_of(folder: Path, **data: Any) -> config.Parts:
    sections = {"data": data, "output": "out", "train": {"coarsen": 2}}
    return config.open_parts(config.parse(sections, folder=folder))


def test_data_are_opened_from_stores_files_and_catalogs(tmp_path: Path, days: xr.Dataset) -> None:
    days.to_zarr(tmp_path / "rain.zarr", consolidated=False)
    for year, part in days.groupby("time.year"):
        part.to_netcdf(tmp_path / f"rain-{year}.nc", engine="scipy")
    catalog.append(tmp_path / "all.yaml", "rain", tmp_path / "rain.zarr", {})
    sources: list[dict[str, Any]] = [
        {"path": "rain.zarr"},
        {"path": str(tmp_path / "rain.zarr")},
        {"path": "rain-*.nc"},
        {"intake": {"catalog": "all.yaml", "name": "rain"}},
    ]
    for source in sources:
        parts = parts_of(tmp_path, **source, train={"time": 2001}, test={"time": 2003})
        xr.testing.assert_allclose(parts.train.pr, days.pr.sel(time="2001"))
        assert parts["test"].sizes["time"] == 365
        assert parts.train.pr.chunks is None  # small enough to be held in memory


def test_rename_applies_to_variables_and_dims(tmp_path: Path, days: xr.Dataset) -> None:
    days.rename(pr="rr", y="j").to_zarr(tmp_path / "rain.zarr", consolidated=False)
    parts = parts_of(tmp_path, path="rain.zarr", rename={"rr": "pr", "j": "y"})
    assert (parts.spec.target, parts.spec.y) == ("pr", "y")
    with pytest.raises(MissingVariableError, match=r"data\.rename.*Did you mean 'rr'"):
        parts_of(tmp_path, path="rain.zarr", rename={"rrr": "pr"})
    with pytest.raises(ConfigError, match=r"data\.rename"):
        parts_of(tmp_path, path="rain.zarr", rename={"rr": "time"})


def test_heavy_section_restricts_the_parts_it_names(tmp_path: Path, days: xr.Dataset) -> None:
    days.to_zarr(tmp_path / "rain.zarr", consolidated=False)
    heavy = {"threshold": "10 mm/day", "extent": 0.05}
    parts = parts_of(tmp_path, path="rain.zarr", test={}, heavy=heavy)
    share = (parts["test"].pr >= 10).mean(("y", "x"))
    assert 0 < parts["test"].sizes["time"] < parts.train.sizes["time"] == 1095
    assert float(share.min()) >= 0.05
    with pytest.raises(EmptySelectionError, match="Lower extent"):
        parts_of(tmp_path, path="rain.zarr", test={}, heavy={**heavy, "extent": 0.9})


def test_missing_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which matches nothing"):
        parts_of(tmp_path, path="rain.zarr")
    write(tmp_path, "no data")
    with pytest.raises(ConfigError, match="data that xarray can open"):
        parts_of(tmp_path, path="config.yaml")


def test_missing_part_error_shows_a_selection_to_add(tmp_path: Path, days: xr.Dataset) -> None:
    days.to_zarr(tmp_path / "rain.zarr", consolidated=False)
    parts = parts_of(tmp_path, path="rain.zarr")
    with pytest.raises(ConfigError, match=r"data\.test: expected a selection of samples"):
        parts["test"]
