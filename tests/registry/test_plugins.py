"""Installed plugins in processes of their own: one sound package and five broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import xcvae

from .conftest import install_good

USE_ALL = """
    import json, sys
    from pathlib import Path
    import xcvae
    from xcvae.registry import build

    SMALL = {"levels": 2, "channels": [8, 8], "latents": [2, 1]}
    QUICK = {"max_steps": 2, "batch_size": 2, "crop": 24, "validations": 1}
    DAMP = {"name": "damp", "factor": 0.5}

    def main(out):
        ds = xcvae.tutorial.open_dataset("radklim").isel(time=slice(0, 60, 10)).load()

        def train(losses, **more):
            return xcvae.train(
                ds, target="pr", conditions=["pr_coarse"], validation=0, generator=SMALL,
                fit=QUICK, losses=losses, progress=False, **more,
            )

        def message(call):
            try:
                call()
            except xcvae.errors.ComponentError as error:
                return str(error)

        model = train(["laplace", "kl", {"name": "peak_error", "weight": 2}], path=out / "m.xcvae")
        plain = xcvae.sample(ds, model, members=2, postprocess=[], progress=False).load()
        lazy = xcvae.sample(ds, model, members=2, postprocess=[DAMP], progress=False)
        xcvae.sample(
            ds, model, members=2, postprocess=[DAMP], store=out / "e.zarr", progress=False
        )
        card = xcvae.evaluate(
            ds, plain, metrics=[{"name": "peak_bias", "scale": 2.0}, "mae"],
            baselines=["doubled", "bilinear"], progress=False,
        )

        import distributed

        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster, distributed.Client(cluster) as client:
            damped = lazy.pr.compute()
            elsewhere = client.submit(repr, build("loss", "peak_error")).result()
        record = {
            "training": model.training["losses"],
            "ensemble": json.loads(lazy.attrs["xcvae"])["postprocess"],
            "card": json.loads(card.attrs["xcvae"]),
            "card_attrs": {k: str(v) for k, v in card.peak_bias.attrs.items()},
            "sources": [str(s) for s in card.source.values],
            "damped": abs(float((damped - 0.5 * plain.pr).max())),
            "rain": float(plain.pr.max()),
            "elsewhere": elsewhere,
            "messages": {
                "loss": message(lambda: train(["laplace", "kl", "boom"])),
                "postprocessor": message(
                    lambda: xcvae.sample(ds, model, members=1, postprocess=["boom"]).load()),
                "metric": message(lambda: xcvae.evaluate(ds, plain, metrics=["boom"])),
                "baseline": message(lambda: xcvae.evaluate(ds, plain, baselines=["boom"])),
                "clash": message(lambda: xcvae.evaluate(ds, plain, metrics=["peak"])),
                "future": message(lambda: xcvae.evaluate(ds, plain, metrics=["from_the_future"])),
                "range": message(lambda: train([{"name": "peak_error", "weight": -1}])),
            },
        }
        (out / "record.json").write_text(json.dumps(record))

    if __name__ == "__main__":
        main(Path(sys.argv[1]))
"""


def python(*arguments: str, site: Path | None, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XCVAE_NO_PLUGINS")}
    path = {"PYTHONPATH": str(site)} if site else {}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**clean, "OMP_NUM_THREADS": "1", **path, **env},
        cwd=site or "/",
    )
    assert done.returncode == 0, done.stderr
    return done


LISTING = "import sys, xcvae.cli as c; c.main(['plugins']); print('torch' in sys.modules)"


@pytest.fixture(scope="module")
def listed(site: Path) -> list[str]:
    return python("-W", "error", "-c", LISTING, site=site).stdout.splitlines()


def test_listing_shows_components_of_a_plugin_without_torch(listed: list[str]) -> None:
    assert listed[-1] == "False"
    for row, line in [
        ("peak_error(weight=0.5)", "Absolute error of the largest value of every sample."),
        ("damp(factor)", "Multiply rain by a factor."),
        ("peak_bias(scale=1.0)", "Highest rain of the members minus that observed."),
        ("doubled()", "Twice the rain of the sample before."),
    ]:
        place = listed.index(f"  {row}  [rainpeaks 1.2]")
        assert listed[place + 1].strip() == line


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("b_import", "b_import 1.2: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("b_hook", "unknown hook 'xcvae_componets'. Did you mean 'xcvae_components'?"),
        ("rainpeaks", "'peak' is claimed by two packages: b_clash 1.2 and rainpeaks 1.2"),
        ("b_api", "plugin 'b_api', XCVAE_API: expected 1, the plugin API of this xcvae, got 99"),
    ],
)
def test_listing_shows_the_error_of_a_broken_plugin(
    listed: list[str], plugin: str, words: str
) -> None:
    (line,) = (one for one in listed if one.startswith(f"broken plugin '{plugin}'"))
    assert words in line


def test_broken_lists_only_broken_plugins(listed: list[str]) -> None:
    assert sum(one.startswith("broken plugin") for one in listed) == 4
    assert "  clip(maximum, minimum=None)" in listed


def test_environment_variable_switches_plugins_off(site: Path) -> None:
    said = python("-c", LISTING, site=site, XCVAE_NO_PLUGINS="1").stdout
    assert "\n  clip(maximum, minimum=None)\n" in said
    assert "rainpeaks" not in said
    assert "broken" not in said


def test_listing_continues_after_an_unreadable_component(tmp_path: Path) -> None:
    install_good(tmp_path)
    (tmp_path / "rainpeaks_parts" / "losses.py").write_text("class PeakError(:\n")
    said = python("-c", LISTING, site=tmp_path).stdout.splitlines()
    place = said.index("  peak_error()  [rainpeaks 1.2]")
    assert said[place + 1].strip().startswith("(cannot be read: SyntaxError: ")
    assert "  damp(factor)  [rainpeaks 1.2]" in said


@pytest.fixture(scope="module")
def used(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a process left that used all of the sound plugin, and the broken ones."""
    out = tmp_path_factory.mktemp("used")
    (out / "use_all.py").write_text(textwrap.dedent(USE_ALL), encoding="utf-8")
    python(str(out / "use_all.py"), str(out), site=site)
    return out


@pytest.fixture(scope="module")
def record(used: Path) -> Any:
    return json.loads((used / "record.json").read_text())


PLUGIN = {"package": "rainpeaks", "version": "1.2"}


def test_model_file_names_components_of_plugins(record: Any, used: Path) -> None:
    terms = record["training"][0]["losses"]
    assert terms[2] == {"name": "peak_error", "weight": 2.0, **PLUGIN}
    assert terms[1]["package"] == "xcvae"
    with pytest.warns(xcvae.errors.MissingPluginWarning):
        assert xcvae.load(used / "m.xcvae").training["losses"][0]["losses"] == terms


def test_ensemble_names_components_of_plugins(record: Any, used: Path) -> None:
    (step,) = record["ensemble"]
    assert step == {"name": "damp", "factor": 0.5, **PLUGIN, "removed": None}
    stored = xr.open_zarr(used / "e.zarr", consolidated=False)
    (step,) = json.loads(stored.attrs["xcvae"])["postprocess"]
    assert {key: step[key] for key in ("name", "factor", "package", "version")} == {
        "name": "damp",
        "factor": 0.5,
        **PLUGIN,
    }
    assert step["removed"]["mass_share"] == pytest.approx(0.5)


def test_scorecard_names_components_of_plugins(record: Any) -> None:
    assert record["card"]["metrics"][0] == {"name": "peak_bias", "scale": 2.0, **PLUGIN}
    assert record["card"]["metrics"][1]["package"] == "xcvae"
    assert record["card"]["baselines"][0] == {"name": "doubled", **PLUGIN}
    assert record["sources"] == ["xcvae", "doubled", "bilinear"]
    assert record["card_attrs"]["units"] == "mm h-1"
    assert record["card_attrs"]["long_name"] == "bias of peaks"
    assert record["card_attrs"]["better"] == "0.0"


def test_components_of_a_plugin_run_on_a_cluster(record: Any) -> None:
    assert record["rain"] > 0
    assert record["damped"] < 1e-6
    assert record["elsewhere"] == "PeakError(weight=0.5)"


@pytest.mark.parametrize("kind", ["loss", "postprocessor", "metric", "baseline"])
def test_errors_of_a_component_name_its_package(record: Any, kind: str) -> None:
    message = record["messages"][kind]
    assert message.startswith(f"{kind} 'boom' of b_raises 1.2 raised ZeroDivisionError: division")
    assert "b_raises.py, line 11" in message


def test_build_explains_clashing_and_broken_names(record: Any) -> None:
    assert "b_clash 1.2 and rainpeaks 1.2" in record["messages"]["clash"]
    assert "could not be loaded" in record["messages"]["future"]
    assert "b_api" in record["messages"]["future"]
    assert record["messages"]["range"] == (
        "loss 'peak_error': PeakError, parameter 'weight': expected a number above 0, got -1.0. "
        "Choose a number in this range."
    )


def test_load_warns_of_a_missing_plugin(used: Path, site: Path) -> None:
    load = f"import xcvae; print(xcvae.load({str(used / 'm.xcvae')!r}).spec.units)"
    without = python("-c", load, site=None)
    assert without.stdout.strip() == "mm h-1"
    assert "loss 'peak_error' of rainpeaks 1.2 is not installed here" in without.stderr
    assert "pip install 'rainpeaks==1.2'" in without.stderr
    assert "MissingPluginWarning" in without.stderr
    assert "peak_error" not in python("-c", load, site=site).stderr


def test_suite_of_a_plugin_runs_under_pytest(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import xcvae.testing\n"
        "from rainpeaks_parts.losses import PeakError\n"
        "class TestPeakError(xcvae.testing.LossSuite):\n"
        "    component = PeakError\n"
        "class TestDamp(xcvae.testing.PostprocessorSuite):\n"
        "    component = {'name': 'damp', 'factor': 0.5}\n"
    )
    said = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), site=site
    ).stdout  # fmt: skip
    counts = said.splitlines()[-1]
    assert "passed" in counts
    assert int(counts.split()[0]) > 25
