"""The contract of the registry with authors and users of components."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae import hookimpl, plugins
from xcvae.errors import ComponentError, DataError
from xcvae.metrics.metric import Metric, SampleSums
from xcvae.metrics.sample import SampleFields
from xcvae.registry import Registry, call, describe, missing, registry
from xcvae.registry.components import construct
from xcvae.registry.signatures import Row, _row, doc_of
from xcvae.testing import make_dataset, make_ensemble, make_loss_state

from .conftest import GOOD, install, install_good

SMALL = {"levels": 2, "channels": [8, 8], "latents": [2, 1]}
QUICK = {"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("XCVAE_NO_PLUGINS", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# --- API version ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "remedy"),
    [
        (2, "Upgrade xcvae"),
        (0, "Install a newer version of 'odd'"),
        ("1", "newer version"),
        (True, "newer"),
    ],
)
def test_register_refuses_another_api_version(declared: object, remedy: str) -> None:
    odd = ModuleType("odd")
    odd.XCVAE_API = declared  # type: ignore[attr-defined]
    with pytest.raises(ComponentError, match=rf"'odd', XCVAE_API: expected 1.*{remedy}"):
        Registry().register(odd)


@pytest.mark.parametrize("line", ["XCVAE_API = 1", ""])
def test_plugins_of_this_api_version_or_none_load(path: Path, line: str) -> None:
    install_good(path)
    (path / "rainpeaks.py").write_text(textwrap.dedent(GOOD).replace("XCVAE_API = 1", line))
    found = Registry()
    assert not found.broken
    assert found.build("loss", "peak_error").weight == 0.5


# --- broken plugins ------------------------------------------------------------------------------


def test_registry_survives_a_plugin_that_exits(path: Path) -> None:
    install(path, "quitter", "import sys; sys.exit('no licence')")
    install_good(path)
    found = Registry()
    assert found.broken == {"quitter": "quitter 1.2: SystemExit: no licence"}
    assert "peak_error" in found.names("loss")


def test_broken_lists_every_clash_of_a_plugin(path: Path) -> None:
    install_good(path)
    again = GOOD.replace('"rainpeaks_parts.losses:PeakError"', '"a:B"')
    install(path, "snowpeaks", again)
    problem = Registry().broken["snowpeaks"]
    for name in ("loss 'peak_error'", "postprocessor 'damp'", "metric 'peak_bias'"):
        assert f"{name} is claimed by two packages: rainpeaks 1.2 and snowpeaks 1.2" in problem


def test_build_warns_of_a_plugin_that_claims_a_built_in_name(path: Path) -> None:
    install_good(path)
    install(path, "greedy", GOOD.replace("peak_error", "laplace").replace("damp", "damper"))
    found = Registry()
    with pytest.warns(UserWarning, match=r"loss 'laplace' is claimed by two packages: xcvae"):
        term = found.build("loss", "laplace")
    assert type(term).__module__.startswith("xcvae.")


def test_construct_names_the_component_in_errors() -> None:
    @dataclass(frozen=True)
    class Fragile:
        def __post_init__(self) -> None:
            raise RuntimeError("no licence")

    with pytest.raises(ComponentError, match="metric 'fragile': RuntimeError: no licence"):
        construct("metric 'fragile'", Fragile, {})


# --- calls ---------------------------------------------------------------------------------------


def test_call_passes_errors_of_xcvae_unchanged() -> None:
    def refuses() -> None:
        raise DataError("too dry")

    with pytest.raises(DataError, match=r"^too dry$"):
        call("metric", refuses)
    with pytest.raises(AttributeError):
        call("loss", registry().build("loss", "laplace"), None)


class OutOfMemoryError(RuntimeError):
    """The class of a library other than torch."""


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, OutOfMemoryError, KeyboardInterrupt])
def test_call_passes_a_lack_of_memory_unchanged(error: type[BaseException]) -> None:
    def large() -> None:
        raise error("tried to allocate 200 GiB")

    with pytest.raises(error, match=r"^tried to allocate 200 GiB$"):
        call("loss", large)


@pytest.mark.parametrize(
    ("result", "words"),
    [(3.0, "float"), (torch.zeros(2), r"shape \(2,\)")],
)
def test_train_names_a_loss_without_a_scalar_result(
    train_radar: xr.Dataset, result: Any, words: str
) -> None:
    def odd_one(state: Any) -> Any:
        return result

    with pytest.raises(
        ComponentError, match=rf"loss 'odd_one' \(.*\) must return a tensor .*{words}"
    ):
        xcvae.train(
            train_radar.isel(time=slice(4)),
            conditions=["pr_coarse"],
            validation=0,
            generator=SMALL,
            fit=QUICK,
            losses=["laplace", odd_one],
            progress=False,
        )


def nothing(*arguments: Any) -> None:
    """Return no result."""


def one(sample: SampleFields) -> dict[str, Any]:
    """Return one sum."""
    return {"count": np.float64(1)}


@dataclass(frozen=True)
class Unfinished(Metric):
    """A metric without a formula."""

    long_name, better = "nothing", "lower"
    sums = SampleSums(one)

    def finish(self, stats: Any) -> Any:
        """Return no score."""


@dataclass(frozen=True)
class Unsummed(Metric):
    """A metric without sums."""

    long_name, better, quotient = "nothing", "lower", ("total", "count")
    sums = SampleSums(nothing)


@dataclass(frozen=True)
class Unnamed(Metric):
    """A quotient of a sum that does not exist."""

    long_name, better, quotient = "nothing", "lower", ("total", "count")
    sums = SampleSums(one)


@pytest.mark.parametrize(
    ("components", "words"),
    [
        ({"metrics": [nothing]}, r"metric 'nothing' \(.*test_contract.py, line \d+\) .*NoneType"),
        ({"metrics": [Unfinished()]}, "metric 'Unfinished' of .* must return a score"),
        ({"metrics": [Unsummed()]}, "nothing: expected to return a dict of sums"),
        ({"metrics": [Unnamed()]}, "Unnamed.quotient: expected two of the sums count"),
        ({"baselines": [nothing]}, r"baseline 'nothing' \(.*\) must return a DataArray"),
    ],
    ids=["a metric", "its formula", "its sums", "a missing sum", "a baseline"],
)
def test_evaluate_names_a_component_without_a_result(
    components: dict[str, list[Any]], words: str
) -> None:
    ds = make_dataset()
    ensemble = make_ensemble(ds).to_dataset(name="pr")
    asked: dict[str, Any] = {"metrics": ["mae"], "baselines": [], **components}
    with pytest.raises(ComponentError, match=words):
        xcvae.evaluate(ds, ensemble, progress=False, **asked)


def test_call_names_the_lines_of_a_local_function() -> None:
    def broken() -> None:
        raise ValueError("no rain")

    with pytest.raises(ComponentError) as caught:
        call("metric", broken)
    assert "metric 'broken' (" in str(caught.value)
    assert "builtins" not in str(caught.value)


# --- scorecards say what a third party's metric says ---------------------------------------------


def test_evaluate_takes_units_and_names_from_third_party_scores() -> None:
    ds = make_dataset()
    ensemble = make_ensemble(ds).to_dataset(name="pr")

    def spread(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        about = {"units": "mm h-1", "long_name": "mean range of members", "better": "higher"}
        reach = forecast.max("realization") - forecast.min("realization")
        return reach.mean().assign_attrs(about)

    def silent(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        return (forecast.mean() / observed.mean()).assign_attrs(observed.attrs)

    silent.over = "record"
    card = xcvae.evaluate(ds, ensemble, metrics=[spread, silent], baselines=[], progress=False)
    assert card.spread.attrs["units"] == "mm h-1"
    assert card.spread.attrs["long_name"] == "mean range of members"
    assert card.spread.attrs["better"] == "higher"
    assert card.spread_low.attrs["units"] == "mm h-1"
    # Attributes that arithmetic carried along say nothing about a score.
    assert card.silent.attrs["units"] == "1"
    assert card.silent.attrs["long_name"] == "silent"
    assert float(card.silent[0]) == float(silent(ensemble.pr, ds.pr))


# --- local plugins -------------------------------------------------------------------------------


class Local:
    """A plugin object."""

    @hookimpl
    def xcvae_components(self) -> dict[str, dict[str, object]]:
        """Name nothing."""
        return {}


def test_register_twice_changes_nothing(path: Path) -> None:
    install_good(path)
    found = Registry()
    found.register("rainpeaks")
    assert found.describe("loss", found.build("loss", "peak_error"))["version"] == "1.2"
    one = Local()
    found.register(one)
    found.register(one)


def test_register_explains_a_missing_module() -> None:
    with pytest.raises(ComponentError, match=r"no_such_module.*beside the configuration"):
        plugins.register("no_such_module")


# --- what is missing -----------------------------------------------------------------------------


def test_missing_names_package_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Folders of these names are no packages: that of a project, and results of a run.
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("rain-peaks", "no_such_module"):
        (tmp_path / name).mkdir()
    record = [
        {"name": "laplace", "package": "xcvae", "version": "0.0.1"},
        {"name": "gone", "package": "rain-peaks", "version": "1.2"},
        {"name": "gone", "package": "rain-peaks", "version": "1.2"},
        {"name": "mine", "package": "no_such_module", "version": None},
        {"name": "Inline", "package": "__main__", "version": None},
        {"name": "Instance", "package": "pytest", "version": None},
    ]
    installed, local = missing("loss", record)
    assert "loss 'gone' of rain-peaks 1.2 is not installed" in installed
    assert "pip install 'rain-peaks==1.2'" in installed
    assert "xcvae.plugins.register('no_such_module')" in local


def test_describe_uses_class_and_module_of_unregistered_instances() -> None:
    about = describe("metric", Local())
    assert about["name"] == "Local"
    assert "package" in about


# --- listing -------------------------------------------------------------------------------------


def rows(target: str | type) -> Row:
    entry = registry().entries()[0]
    return _row(type(entry)("loss", "mine", "me", None, target))


def test_listing_reads_sources_through_packages_and_imports(path: Path) -> None:
    inside = path / "layered"
    inside.mkdir()
    (inside / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    (inside / "base.py").write_text(
        "from dataclasses import dataclass, field, KW_ONLY\nfrom typing import ClassVar\n"
        "class Base:\n    'Base.'\n    first: int = 1\n    kind: ClassVar[str] = 'x'\n"
    )
    (inside / "parts.py").write_text(
        "from .base import Base as Root\n"
        "class Part(Root):\n    'A part.'\n    _: KW_ONLY\n    second: float\n"
        "    hidden: int = field(init=False)\n"
    )
    (inside / "api.py").write_text("from layered.parts import Part as Public\n")
    row = rows("layered.api:Public")
    assert row.parameters == {"first": "1", "second": None}
    assert row.summary == "A part."
    assert "layered" not in sys.modules


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_module.at_all:X", "(no_such_module.at_all cannot be found)"),
        ("xcvae.errors:Nothing", "(xcvae.errors has no class Nothing)"),
    ],
)
def test_listing_explains_missing_modules_and_classes(target: str, words: str) -> None:
    assert rows(target).summary == words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"class Cls(:\n    pass\n", "SyntaxError"),
        (b"# -*- coding: no-such-code -*-\nclass Cls: pass\n", "SyntaxError"),
        (b"class Cls:\n    'caf\xe9'\n", "Error"),
        (b"class Cls:\n    'a\0b'\n", "Error"),
    ],
)
def test_listing_explains_unreadable_sources(path: Path, source: bytes, words: str) -> None:
    (path / "unreadable.py").write_bytes(source)
    row = rows("unreadable:Cls")
    assert row.summary.startswith("(cannot be read: ")
    assert words in row.summary
    assert (row.name, row.parameters) == ("mine", {})


def test_listing_respects_declared_encodings(path: Path) -> None:
    (path / "latin.py").write_bytes(b"# coding: latin-1\nclass Cls:\n    'caf\xe9'\n")
    assert rows("latin:Cls").summary == "café"


def test_listing_explains_failing_default_factories() -> None:
    def fails() -> int:
        raise RuntimeError("no licence")

    @dataclass(frozen=True)
    class Costly:
        size: int = field(default_factory=fails)

    assert rows(Costly).summary == "(cannot be read: RuntimeError: no licence)"


def test_listing_accepts_a_class_with_the_name_of_its_base(path: Path) -> None:
    (path / "above.py").write_text("class CRPS:\n    first: int = 1\n")
    (path / "named.py").write_text(
        "from above import CRPS\nclass CRPS(CRPS):\n    'Mine.'\n    second: int = 2\n"
    )
    row = rows("named:CRPS")
    assert row.parameters == {"first": "1", "second": "2"}
    assert row.summary == "Mine."
    (path / "round_a.py").write_text("from round_b import B\nclass A(B):\n    a: int = 1\n")
    (path / "round_b.py").write_text("from round_a import A\nclass B(A):\n    b: int = 2\n")
    assert rows("round_a:A").parameters == {"b": "2", "a": "1"}
    (path / "itself.py").write_text("class Loop(Loop):\n    a: int = 1\n")
    assert rows("itself:Loop").parameters == {"a": "1"}


def test_doc_of_ignores_generated_signatures() -> None:
    @dataclass
    class Bare:
        size: int = 1

    @dataclass
    class Signed:
        """Signed(x) is a written docstring."""

    assert doc_of(Bare) == ""
    assert doc_of(Signed) == "Signed(x) is a written docstring."
    assert rows(Bare).summary == ""


# --- public names --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugins.__all__)
def test_public_names_of_plugins_can_be_imported(name: str) -> None:
    assert getattr(plugins, name) is getattr(plugins, name)


@pytest.mark.parametrize("module", ["plugins", "testing"])
def test_unknown_public_names_are_attribute_errors(module: str) -> None:
    with pytest.raises(AttributeError, match=f"'xcvae.{module}' has no attribute 'Losss'"):
        _ = getattr(xcvae, module).Losss


@dataclass(frozen=True)
class Ranged:
    share: float | None = 0.5
    count: int | str = 1

    def __post_init__(self) -> None:
        plugins.in_range(self, "share", 0, 1)
        plugins.in_range(self, "count", above=0, high=9)


@pytest.mark.parametrize("given", [{}, {"share": None}, {"share": 1}, {"count": "3 mm"}])
def test_in_range_passes_values_in_range(given: dict[str, Any]) -> None:
    assert Ranged(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"share": -0.1}, "'share': expected a number from 0 to 1, got -0.1"),
        ({"count": 0}, "'count': expected a number above 0 and at most 9, got 0"),
        ({"count": 10}, "above 0 and at most 9, got 10"),
    ],
)
def test_in_range_names_parameter_and_range(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ComponentError, match=f"Ranged, parameter .*{words}"):
        Ranged(**given)


# --- the data of the suites ----------------------------------------------------------------------


def test_make_loss_state_is_real_rain_with_options() -> None:
    state = make_loss_state(samples=2, size=(16, 20), masked=True, step=7)
    assert state.x.shape == (2, 1, 16, 20)
    assert float(state.observed.max()) > 1
    assert state.step == 7
    assert not state.mask[1].any()
    assert state.prior_draws(2)[0].is_leaf
    pushed = make_loss_state(samples=2, size=(16, 20), masked=True, under_mask=2.5)
    assert torch.equal(pushed.output[state.mask], state.output[state.mask])
    assert not torch.equal(pushed.output, state.output)


def test_make_dataset_returns_fresh_copies() -> None:
    one = make_dataset(masked=True)
    one.pr[:] = 0.0
    assert float(make_dataset().pr.max()) > 1
    daily = make_dataset(units="mm/day")
    assert float(daily.pr.max()) == pytest.approx(24 * float(make_dataset().pr.max()))
    assert daily.pr_coarse.attrs["units"] == "mm/day"
