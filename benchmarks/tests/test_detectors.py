"""True and false alarms: each disease is named, and nothing is said of the healthy."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xcvae.verify.diagnosis import Diagnosis, judge
from xcvae.verify.findings import DETECTORS

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sick = importlib.import_module("references.sick")

#: Not those that the limits were chosen with (0), nor those of the reported table (1, 2).
SEED = 3


def said(diagnosis: Diagnosis) -> dict[str, str]:
    return {f.name: f.severity for f in diagnosis.findings if f.severity in ("warning", "fault")}


@pytest.fixture(scope="module")
def healthy() -> Any:
    return sick.perfect(seed=SEED)


@pytest.mark.parametrize("name", sick.HEALTHY)
def test_nothing_is_said_of_the_healthy(name: str) -> None:
    diagnosis = judge(sick.perfect(seed=SEED, **sick.HEALTHY[name]).evidence())
    assert said(diagnosis) == {}, diagnosis


@pytest.mark.parametrize("disease", sick.DISEASES, ids=lambda d: d.name)
def test_a_strong_disease_is_named(disease: Any, healthy: Any) -> None:
    ill = disease.change(healthy, disease.strengths[-1], np.random.default_rng(0))
    diagnosis = judge(ill.evidence())
    assert not diagnosis.ok or disease.name == "stripes of 4"
    assert {*disease.finding} & {*said(diagnosis)}, diagnosis


@pytest.mark.parametrize("name", sick.SPREADS)
def test_a_wrong_spread_is_named_whatever_single_members_look_like(name: str) -> None:
    diagnosis = judge(sick.perfect(seed=SEED, **sick.SPREADS[name][-1]).evidence())
    assert name in said(diagnosis), diagnosis
    assert "mean_collapse" not in said(diagnosis)


def test_every_finding_has_a_disease_of_its_own() -> None:
    named = {name for disease in sick.DISEASES for name in disease.finding} | {*sick.SPREADS}
    assert named == {detector.__name__ for detector in DETECTORS}
