"""Plugin packages as pip leaves them: a module, and a .dist-info with an entry point."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[..., None]

GOOD = '''
    """A plugin whose components are named by import string."""
    from xcvae import hookimpl

    XCVAE_API = 1

    @hookimpl
    def xcvae_components():
        return {
            "loss": {"peak_error": "rainpeaks_parts.losses:PeakError"},
            "postprocessor": {"damp": "rainpeaks_parts.fields:Damp"},
            "metric": {
                "peak": "rainpeaks_parts.fields:Peak",
                "peak_bias": "rainpeaks_parts.fields:PeakBias",
            },
            "baseline": {"doubled": "rainpeaks_parts.fields:Doubled"},
        }
'''
LOSSES = '''
    from dataclasses import dataclass

    import torch

    from xcvae.plugins import Component, LossState, in_range

    @dataclass(frozen=True)
    class PeakError(Component):
        """Absolute error of the largest value of every sample."""

        weight: float = 0.5

        def __post_init__(self):
            in_range(self, "weight", above=0)

        def __call__(self, state: LossState) -> torch.Tensor:
            high = [(f * state.mask).amax((1, 2, 3)) for f in (state.output, state.x)]
            return self.weight * (high[0] - high[1]).abs().mean()
'''
FIELDS = '''
    from dataclasses import dataclass

    from xcvae.plugins import Component, in_range, matched

    @dataclass(frozen=True)
    class Damp(Component):
        """Multiply rain by a factor."""

        factor: float

        def __call__(self, field, context):
            return (self.factor * field).assign_attrs(field.attrs)

    @dataclass(frozen=True)
    class Peak(Component):
        """Highest rain of the ensemble."""

        def __call__(self, forecast, observed):
            return forecast.max()

    @dataclass(frozen=True)
    class PeakBias(Component):
        """Highest rain of the members minus that observed."""

        scale: float = 1.0

        def __call__(self, forecast, observed):
            pair = matched(forecast, observed)
            seen = pair.forecast.where(pair.observed.notnull())
            high = [f.max(f.dims[-2:]).mean() for f in (seen, pair.observed)]
            about = {"units": pair.units, "long_name": "bias of peaks", "better": 0.0}
            return (self.scale * (high[0] - high[1])).assign_attrs(about)

    @dataclass(frozen=True)
    class Doubled(Component):
        """Twice the rain of the sample before."""

        def __call__(self, dataset, members, seed):
            observed = dataset[dataset.attrs["target"]]
            field = 2 * observed.roll({observed.dims[0]: 1}, roll_coords=False)
            return field.expand_dims("realization").assign_attrs(observed.attrs)
'''
#: Five plugins that are broken, each in its way: module name, source.
BROKEN = {
    "b_import": "import not_there_at_all",
    "b_hook": """
        from xcvae import hookimpl

        @hookimpl
        def xcvae_componets():
            return {}
    """,
    "b_clash": """
        from dataclasses import dataclass
        from xcvae import hookimpl
        from xcvae.plugins import Component

        @dataclass(frozen=True)
        class Peak(Component):
            "Another peak."

        @hookimpl
        def xcvae_components():
            return {"metric": {"peak": Peak}}
    """,
    "b_api": """
        from xcvae import hookimpl

        XCVAE_API = 99

        @hookimpl
        def xcvae_components():
            return {"metric": {"from_the_future": "b_api:Future"}}
    """,
    "b_raises": """
        from dataclasses import dataclass
        from xcvae import hookimpl
        from xcvae.plugins import Component

        @dataclass(frozen=True)
        class Boom(Component):
            "Fails on the first call."

            def __call__(self, *given):
                return 1 / 0

        @hookimpl
        def xcvae_components():
            return {
                kind: {"boom": Boom} for kind in ("loss", "postprocessor", "metric", "baseline")
            }
    """,
}


def install(site: Path, name: str, source: str, *, point: str | None = None) -> None:
    """Put a distribution of version 1.2 with one module and one entry point into a folder."""
    (site / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[xcvae]\n{point or name} = {name}\n")


def install_good(site: Path) -> None:
    """Put the sound plugin ``rainpeaks`` into a folder."""
    install(site, "rainpeaks", GOOD)
    parts = site / "rainpeaks_parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("")
    (parts / "losses.py").write_text(textwrap.dedent(LOSSES), encoding="utf-8")
    (parts / "fields.py").write_text(textwrap.dedent(FIELDS), encoding="utf-8")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: one sound plugin and five broken ones."""
    folder = tmp_path_factory.mktemp("site")
    install_good(folder)
    for name, source in BROKEN.items():
        install(folder, name, source)
    return folder
