"""Every built-in component passes the public suite of its kind."""

from __future__ import annotations

from typing import Any

import pytest

from xcvae.registry import builtin
from xcvae.testing import BaselineSuite, LossSuite, MetricSuite, PostprocessorSuite, StormSuite
from xcvae.testing.suite import Suite

#: Parameters that have no default.
PARAMETERS: dict[str, dict[str, Any]] = {
    "threshold": {"value": "0.5 mm h-1"},
    "clip": {"maximum": "8 mm h-1"},
    "round": {"step": "0.12 mm h-1"},
    "amplify": {"factor": 1.5},
    "borrow": {"source": "a model run"},
}
#: Where gradients must arrive; at the reconstruction, for those that are not named.
LEARNS_FROM: dict[str, tuple[str, ...]] = {
    "kl": ("kl",),
    "crps": ("draws",),
    "twcrps": ("draws",),
    "crps_of_maxima": ("draws",),
    "energy_score": ("draws",),
    "spectral": ("draws",),
}
#: Parameters that are out of range.
REFUSED: dict[str, tuple[dict[str, Any], ...]] = {
    "laplace": ({"scale": 0.0},),
    "kl": ({"beta": -1.0}, {"warmup": 2.0}, {"free_bits": -1.0}),
    "intensity_weighted_mae": ({"w_min": -1.0}, {"tail_quantile": 1.5}),
    "crps": ({"draws": 1}, {"alpha": 2.0}),
    "twcrps": ({"share": 2.0}, {"start": -0.5}),
    "amplify": ({"factor": 0.0}, {"level": "3 mm h-1"}, {"most": 0.5}),
    "turn": ({"degrees": 45},),
    "mirror": ({"along": "z"},),
    "shift": ({"fill": "wet"},),
}
#: Those that the training finds scales for, beside the network.
LEARNED = [
    {"name": "laplace", "scale": "learned"},
    {"name": "multiscale_laplace", "scale": "learned"},
    {"name": "hurdle", "scale": "learned", "occurrence": "learned"},
]
SUITES: dict[str, tuple[type[Suite], dict[str, Any]]] = {
    "loss": (LossSuite, builtin.LOSSES),
    "postprocessor": (PostprocessorSuite, builtin.POSTPROCESSORS),
    "storm": (StormSuite, builtin.STORMS),
    "metric": (MetricSuite, builtin.METRICS),
    "baseline": (BaselineSuite, builtin.BASELINES),
}


def cases() -> list[Any]:
    suites = []
    for kind, (suite, names) in SUITES.items():
        for name in names:
            own: dict[str, Any] = {
                "component": name,
                "parameters": PARAMETERS.get(name, {}),
                "refused": REFUSED.get(name, ()),
            }
            if kind == "loss":
                own["learns_from"] = LEARNS_FROM.get(name, ("reconstruction",))
            suites.append((f"{kind}-{name}", type("Test", (suite,), own)))
    for spec in LEARNED:
        own = {"component": spec, "learns_from": ("reconstruction", "learned")}
        suites.append((f"loss-{spec['name']}-learned", type("Test", (LossSuite,), own)))
    return [
        pytest.param(suite, check, id=f"{label}-{check[5:]}")
        for label, suite in suites
        for check in dir(suite)
        if check.startswith("test_")
    ]


@pytest.mark.parametrize(("suite", "check"), cases())
def test_built_in_component_passes_its_suite(suite: type[Suite], check: str) -> None:
    getattr(suite(), check)()
