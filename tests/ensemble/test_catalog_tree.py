"""Catalogs in catalogs, the search for ensembles in them, and the scores of an evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import intake
import numpy as np
import pytest
import xarray as xr

from xcvae.ensemble import catalog
from xcvae.errors import CatalogError

FIRST, SECOND = "3f2a" + "0" * 60, "3f7b" + "1" * 60


@pytest.fixture
def store(tmp_path):
    values = np.ones((2, 3, 4, 5), "float32")
    rain = xr.DataArray(values, dims=("realization", "time", "y", "x"), name="pr")
    rain.to_dataset().to_zarr(tmp_path / "all" / "ens.zarr", consolidated=False, zarr_format=3)
    return tmp_path / "all" / "ens.zarr"


@pytest.fixture
def outer(store, tmp_path):
    """A catalog with an ensemble of its own and two inner catalogs, one inside the other."""
    top, inner, deep = (tmp_path / "all" / name for name in ("top.yaml", "in/b.yaml", "in/c.yaml"))
    catalog.append(top, "own", store, {"model_sha256": FIRST, "mode": "prior", "seed": 1})
    catalog.append(inner, "late", store, {"model_sha256": SECOND, "mode": "prior", "seed": 2})
    catalog.append(deep, "post", store, {"model_sha256": FIRST, "mode": "posterior", "seed": 1})
    catalog.link(top, "inner", inner, {"description": "more"})
    catalog.link(inner, "deep", deep)
    return top


def test_plain_intake_opens_inner_catalog(outer):
    opened = intake.open_catalog(str(outer))["inner"].read()["deep"].read()["post"].read()
    assert opened.pr.chunks is not None
    assert float(opened.pr.sum()) == 120.0


def test_inner_names_work_also_after_move(outer, tmp_path):
    moved = (tmp_path / "all").rename(tmp_path / "moved here") / "top.yaml"
    assert catalog.names(moved) == ["inner", "own"]
    assert float(catalog.open_entry(moved, "inner/deep/post").pr.sum()) == 120.0
    assert catalog.metadata_of(moved, "inner/late")["seed"] == 2
    catalog.annotate(moved, "inner/late", {"crps": 0.5})
    assert catalog.metadata_of(tmp_path / "moved here/in/b.yaml", "late")["scores"] == {"crps": 0.5}
    assert str(tmp_path) not in moved.read_text()


def test_inner_catalog_is_read_on_demand(outer):
    (outer.parent / "in" / "b.yaml").write_text("{{{")
    assert float(catalog.open_entry(outer, "own").pr.sum()) == 120.0
    assert catalog.names(outer) == ["inner", "own"]
    with pytest.raises(CatalogError, match=r"b\.yaml.*intake 2 catalog"):
        catalog.open_entry(outer, "inner/late")


def test_unknown_inner_name_error_names_catalog(outer):
    with pytest.raises(CatalogError, match="Did you mean 'inner'"):
        catalog.open_entry(outer, "iner/late")
    with pytest.raises(CatalogError, match=r"b\.yaml': expected the name.*'lat'.*'late'"):
        catalog.open_entry(outer, "inner/lat")
    with pytest.raises(CatalogError, match=r"entry 'own' of .*expected a catalog"):
        catalog.open_entry(outer, "own/late")
    with pytest.raises(CatalogError, match="got Catalog"):
        catalog.open_entry(outer, "inner")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["inner/deep/post", "inner/late", "own"]),
        ({"model": FIRST}, ["inner/deep/post", "own"]),
        ({"model": "3f7b"}, ["inner/late"]),
        ({"mode": "prior"}, ["inner/late", "own"]),
        ({"seed": 1}, ["inner/deep/post", "own"]),
        ({"seed": 1, "mode": "prior", "model": "3f"}, ["own"]),
        ({"seed": 3}, []),
    ],
)
def test_search_finds_by_model_mode_and_seed(outer, query, found):
    assert catalog.search(outer, **query) == found


def test_search_visits_each_catalog_once(outer):
    catalog.link(outer.parent / "in" / "c.yaml", "back", outer)
    assert catalog.search(outer, seed=1) == ["inner/deep/post", "own"]


def test_link_refuses_used_name(outer):
    inner = outer.parent / "in" / "b.yaml"
    with pytest.raises(CatalogError, match="name 'own'"):
        catalog.link(outer, "own", inner)
    catalog.link(outer, "inner", inner)
    catalog.link(outer, "own", inner, overwrite=True)
    assert catalog.open_entry(outer, "own/late").pr.size == 120
    with pytest.raises(CatalogError, match="intake 2 catalog"):
        catalog.link(outer, "nothing", outer.with_name("nothing.yaml"))
    assert catalog.names(outer) == ["inner", "own"]


def card():
    better = {"units": "1", "better": "lower"}
    return xr.Dataset(
        {
            "crps": ("source", np.array([0.25, 0.5]), better),
            "crps_low": ("source", np.array([0.2, 0.4]), {"units": "1"}),
            "ks": ("source", np.array([np.nan, 0.1]), better),
        },
        coords={"source": ["xcvae", "bilinear"]},
    )


def test_annotate_takes_scores_of_scorecard_without_intervals(outer):
    catalog.annotate(outer, "own", {"diversity": 0.2, "crps": 9.0})
    catalog.annotate(outer, "own", card())
    metadata = catalog.metadata_of(outer, "own")
    assert metadata["scores"] == {"diversity": 0.2, "crps": 0.25, "ks": None}
    assert metadata["seed"] == 1


def test_annotate_refuses_scorecard_by_groups(outer):
    with pytest.raises(CatalogError, match="not by groups"):
        catalog.annotate(outer, "own", card().expand_dims(season=["djf", "jja"]))
    with pytest.raises(CatalogError, match="not by groups"):
        catalog.annotate(outer, "own", card().isel(source=[1]))
    assert "scores" not in catalog.metadata_of(outer, "own")


def test_concurrent_annotations_are_all_kept(outer):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: catalog.annotate(outer, "own", {f"score{i}": i}), range(30)))
    assert catalog.metadata_of(outer, "own")["scores"] == {f"score{i}": i for i in range(30)}
