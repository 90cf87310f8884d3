"""``import xcvae``: public names on first use, and no heavy package before."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

import xcvae
from xcvae.accessor import CvaeAccessor
from xcvae.generator.model import Model

# What takes long to load and has no part in a draw: the registry of units (pint itself is loaded by
# xarray), compilers, trainings, scores.
DISPENSABLE = {
    "cf_xarray", "matplotlib", "intake", "sympy", "torch._dynamo", "torch._inductor",
    "xcvae.generator.training.train", "xcvae.metrics", "xcvae.verify",
}  # fmt: skip
VERBS = ("train", "sample", "evaluate", "diagnose", "augment", "heavy")


def in_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", xcvae.__all__)
def test_public_names_are_importable(name: str) -> None:
    assert getattr(xcvae, name) is getattr(xcvae, name)


def test_dir_lists_names_before_they_are_imported() -> None:
    code = "import xcvae, sys; print(*dir(xcvae)); print('xcvae.generator' in sys.modules)"
    names, loaded = in_new_process(code).splitlines()
    assert set(xcvae.__all__) <= set(names.split())
    assert loaded == "False"


def test_import_loads_no_torch_and_registers_the_accessor() -> None:
    code = (
        "import xarray as xr, xcvae, sys; print(hasattr(xr.Dataset(), 'cvae'), "
        "*({'torch', 'intake', 'matplotlib', 'pint', 'scipy', 'dask'} & set(sys.modules)))"
    )
    assert in_new_process(code) == "True"


def test_first_field_imports_only_what_it_needs(tiny_model: Model, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "model.xcvae")
    code = f"""
import sys, xcvae
ds = xcvae.tutorial.open_dataset("radklim").isel(time=slice(1))
ens = ds.cvae.sample({str(tmp_path / "model.xcvae")!r}, members=1, progress=False)
assert ens.pr.values.max() > 0
print(*({DISPENSABLE!r} & set(sys.modules)))
"""
    assert in_new_process(code) == ""


def test_import_takes_less_than_half_a_second_beyond_xarray() -> None:
    code = (
        "import xarray, time; start = time.perf_counter(); import xcvae; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(in_new_process(code)) for _ in range(3)) < 0.5


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = xcvae.trian


@pytest.mark.parametrize("verb", VERBS)
def test_methods_of_the_accessor_have_the_signatures_of_the_verbs(verb: str) -> None:
    function = inspect.signature(getattr(xcvae, verb)).parameters
    method = inspect.signature(getattr(CvaeAccessor, verb)).parameters
    expected = {n: (p.kind, p.default) for n, p in list(function.items())[1:]}
    got = {n: (p.kind, p.default) for n, p in list(method.items())[1:]}
    if verb == "diagnose":  # the accessor may know the model
        expected["model"] = (expected["model"][0], None)
    assert got == expected


@pytest.mark.parametrize("verb", VERBS)
def test_methods_of_the_accessor_document_every_parameter(verb: str) -> None:
    method = getattr(CvaeAccessor, verb)
    documented = inspect.getdoc(method) or ""
    for name in list(inspect.signature(method).parameters)[1:]:
        assert name in documented


def test_a_dataset_remembers_the_model_trained_on_it(train_radar: xr.Dataset) -> None:
    few = train_radar.isel(time=slice(0, 40, 5))
    quick = {"max_steps": 2, "batch_size": 2, "crop": 24}
    small = {"levels": 2, "channels": [8, 8], "latents": [2, 1]}
    model = few.cvae.train(
        conditions=["pr_coarse"], validation=0, generator=small, fit=quick, progress=False
    )
    ensemble = few.cvae.sample(members=1, progress=False)
    assert model.sha256 in ensemble.attrs["xcvae"]
    other = few.isel(time=slice(2))
    with pytest.raises(xcvae.errors.ConfigError, match="another object"):
        other.cvae.sample()
    with pytest.raises(xcvae.errors.ConfigError, match="another object"):
        other.cvae.diagnose()
    both = few.cvae.augment(ensemble)
    assert both.sizes["time"] == 2 * few.sizes["time"]
    assert few.cvae.heavy().dtype == bool
    card = few.cvae.evaluate(ensemble, metrics=["mass_bias"], baselines=[], progress=False)
    assert list(card.source.values) == ["xcvae"]
    assert ensemble.cvae.plot.members(few, members=1).axes
