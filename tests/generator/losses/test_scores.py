"""Scores of prior draws against the package `scores` and brute force."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scores.probability
import torch
import xarray as xr

from xcvae.registry.registry import build


def draws_of(rain: np.ndarray, count: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rain * rng.lognormal(0, 0.7, rain.shape) + 0.2 for _ in range(count)]


def test_crps_default_value_is_unchanged(rain, seen):
    """The value that the first release gave for this batch."""
    value = float(build("loss", "crps")(seen(rain, rain, None, draws_of(rain))))
    assert value == pytest.approx(0.6108634, rel=1e-5)


@pytest.mark.parametrize(("alpha", "method"), [(1.0, "fair"), (0.0, "ecdf")])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_crps_equals_scores(alpha, method, count, rain, seen):
    draws = draws_of(rain, count)
    forecast = xr.DataArray(np.stack(draws), dims=("member", "sample", "y", "x"))
    wanted = scores.probability.crps_for_ensemble(
        forecast, forecast[0] * 0 + rain, "member", method=method
    )
    spec = {"name": "crps", "draws": count, "alpha": alpha, "poolings": [1], "weight": 1.0}
    value = float(build("loss", spec)(seen(rain, rain, None, draws)))
    assert value == pytest.approx(float(wanted) / rain.mean(), rel=1e-4)


def test_crps_in_normalised_space_equals_scores(rain, seen):
    step = seen(rain, rain, None, draws_of(rain))
    members = np.stack([draw.numpy() for draw in step.prior_draws(2)])
    forecast = xr.DataArray(members[:, :, 0], dims=("member", "sample", "y", "x"))
    observed = xr.DataArray(step.x.numpy()[:, 0], dims=("sample", "y", "x"))
    wanted = scores.probability.crps_for_ensemble(forecast, observed, "member", method="fair")
    spec = {"name": "crps", "space": "normalised", "alpha": 1.0, "poolings": [1], "weight": 1.0}
    value = float(build("loss", spec)(step))
    assert value == pytest.approx(float(wanted) / step.typical("normalised"), rel=1e-4)


def test_crps_is_minimal_for_calibrated_draws(seen):
    """Among draws of several spreads, the scoring rule finds the spread of the truth."""
    rng = np.random.default_rng(1)
    truth = rng.gamma(2, 2, (64, 16, 16))
    values = []
    for width in (0.01, 1.0, 3.0):
        draws = [np.maximum(4 + width * (rng.gamma(2, 2, truth.shape) - 4), 0) for _ in range(2)]
        term = build("loss", {"name": "crps", "poolings": [1]})
        values.append(float(term(seen(truth, truth, draws=draws))))
    assert values[1] == min(values)


@pytest.mark.parametrize("off", [{"quantiles": [0.0]}, {"share": 0.0}, {"start": 1.0}])
def test_twcrps_without_thresholds_is_crps(off, rain, seen):
    draws = draws_of(rain, 3)
    pair = [
        float(build("loss", {**spec, "draws": 3})(seen(rain, rain, None, draws)))
        for spec in ({"name": "twcrps", **off}, {"name": "crps"})
    ]
    assert pair[0] == pytest.approx(pair[1], rel=1e-6)


@pytest.mark.parametrize(("progress", "share"), [(0.2, 0.0), (0.5, 0.0), (0.75, 0.4), (1.0, 0.8)])
def test_twcrps_mixes_the_scores_of_chained_amounts(progress, share, rain, seen):
    draws = draws_of(rain, 3)
    step = seen(rain, rain, None, draws, progress=progress)
    forecast = xr.DataArray(np.stack(draws), dims=("member", "sample", "y", "x"))
    observed = forecast[0] * 0 + rain

    def of(threshold):
        parts = (np.maximum(da, threshold) for da in (forecast, observed))
        return float(scores.probability.crps_for_ensemble(*parts, "member", method="fair"))

    thresholds = [step.record.quantile(q) for q in (0.5, 0.9)]
    assert 0 < thresholds[0] < thresholds[1]
    tails = [of(t) / np.maximum(rain - t, 0).mean() for t in thresholds]
    wanted = (1 - share) * of(0.0) / rain.mean() + share * np.mean(tails)
    spec = {
        "name": "twcrps", "draws": 3, "alpha": 1.0, "poolings": [1], "weight": 1.0, "share": 0.8,
        "quantiles": [0.5, 0.9],
    }  # fmt: skip
    # The record knows amounts in bins 3.5 % wide, and with them the mean above a threshold.
    assert float(build("loss", spec)(step)) == pytest.approx(wanted, rel=0.03 if share else 1e-5)


@pytest.mark.parametrize("sea", [0, 5])
def test_crps_of_maxima_scores_the_largest_pixel_of_windows(sea, rain, seen):
    """A window counts by its valid share: with five columns of sea all, a quarter and nothing."""
    draws = draws_of(rain, 3)
    mask = np.ones(rain.shape, bool)
    mask[..., 10 - sea :] = False
    forecast = xr.DataArray(np.stack(draws) * mask, dims=("member", "sample", "y", "x"))
    observed = forecast[0] * 0 + rain * mask
    parts = (da.coarsen(y=4, x=4, boundary="pad").max() for da in (forecast, observed))
    weights = xr.DataArray(mask, dims=("sample", "y", "x")).astype(float)
    weights = weights.coarsen(y=4, x=4, boundary="pad").mean()
    each = scores.probability.crps_for_ensemble(
        *parts, "member", method="fair", preserve_dims=["sample", "y", "x"]
    )
    spec = {"name": "crps_of_maxima", "draws": 3, "alpha": 1.0, "poolings": [4], "weight": 1.0}
    found = float(build("loss", spec)(seen(rain, rain, mask, draws)))
    wanted = float((each * weights).sum() / weights.sum())
    assert found == pytest.approx(wanted / rain.mean(), rel=1e-5)


def test_twcrps_gradient_is_that_of_finite_differences(rain, seen):
    """Gradients of all draws against central differences of the value, in double precision."""
    spec = {"name": "twcrps", "quantiles": [0.9], "share": 1.0, "poolings": [1, 4]}
    term, step = build("loss", spec), seen(rain, rain, None, draws_of(rain))
    drawn = [draw.double() for draw in step.prior_draws(2)]

    def value(*draws):
        return term(dataclasses.replace(step, _draws=list(draws), _members={}))

    inputs = [draw.clone().requires_grad_() for draw in drawn]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-7, atol=1e-4)
    gradients = torch.autograd.grad(value(*inputs), inputs)
    threshold = step.record.quantile(0.9)
    for draw, gradient in zip(drawn, gradients, strict=True):
        light = step.scaling.physical(draw) < threshold
        assert not gradient[light].any()  # the body has no part in it
        assert gradient[~light].any()


def test_twcrps_is_finite_beyond_the_record(rain, seen):
    """A threshold at the maximum has nothing above it to compare with."""
    term = build("loss", {"name": "twcrps", "quantiles": [0.9999], "share": 1.0})
    value = float(term(seen(rain, rain, None, [2 * draw for draw in draws_of(rain)])))
    assert 0 < value < 2000


def brute_energy(
    draws: list[np.ndarray],
    truth: np.ndarray,
    mask: np.ndarray,
    *,
    poolings: tuple[int, ...],
    patch: int,
    alpha: float,
) -> float:
    """Compute the definition, window by window, from means over valid pixels."""
    total = 0.0
    for side in poolings:
        samples, ny, nx = truth.shape
        score = weight = 0.0
        for i, top, left in itertools.product(
            range(samples), range(0, ny, side * patch), range(0, nx, side * patch)
        ):
            means, shares = [], []
            for y, x in itertools.product(
                range(top, min(top + side * patch, ny), side),
                range(left, min(left + side * patch, nx), side),
            ):
                here = (i, slice(y, y + side), slice(x, x + side))
                if mask[here].any():
                    means.append([m[here][mask[here]].mean() for m in (*draws, truth)])
                    shares.append(mask[here].mean())
            if not shares:
                continue
            *members, observed = np.array(means).T
            share = np.array(shares)

            def norm(a, b, share=share):
                return np.sqrt((share * (a - b) ** 2).sum() / share.sum())

            count = len(members)
            skill = np.mean([norm(m, observed) for m in members])
            spread = np.mean([norm(a, b) for a, b in itertools.combinations(members, 2)])
            almost = 1 - (1 - alpha) / count
            score += share.sum() * (skill - 0.5 * almost * spread)
            weight += share.sum()
        total += score / weight
    return total / len(poolings)


@pytest.mark.parametrize("patch", [None, 1, 2, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_energy_score_equals_brute_force(patch, masked, count, rain, seen):
    mask = np.ones(rain.shape, bool)
    if masked:
        mask[0, 1:7, 2:9] = False
        mask[1, 0] = False
    draws = draws_of(rain, count)
    spec = {"name": "energy_score", "draws": count, "alpha": 0.9, "poolings": [1, 3, 16]}
    value = build("loss", {**spec, "patch": patch})(seen(rain, rain, mask, draws))
    wanted = brute_energy(draws, rain, mask, poolings=(1, 3, 16), patch=patch or 99, alpha=0.9)
    assert float(value) == pytest.approx(wanted / rain.mean(), rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_energy_score_with_patch_one_is_crps(masked, rain, seen):
    mask = rain < (3 if masked else np.inf)
    shared = {"poolings": [1, 4], "draws": 3, "weight": 1.0}
    pair = [
        float(build("loss", {**spec, **shared})(seen(rain, rain, mask, draws_of(rain, 3))))
        for spec in ({"name": "energy_score", "patch": 1}, {"name": "crps"})
    ]
    assert pair[0] == pytest.approx(pair[1], rel=1e-5)


def test_energy_score_depends_on_the_pattern(seen):
    """Same amounts in each pixel, once in the pattern of the truth: CRPS cannot tell them apart."""
    rng = np.random.default_rng(6)
    truth = np.repeat(rng.gamma(2, 2, (400, 1, 1)), 8, axis=2)
    together = [np.repeat(rng.gamma(2, 2, (400, 1, 1)), 8, axis=2) for _ in range(2)]
    apart = [rng.gamma(2, 2, truth.shape) for _ in range(2)]
    energy, crps = (
        [
            float(build("loss", {"name": name, "poolings": [1]})(seen(truth, truth, None, d)))
            for d in (together, apart)
        ]
        for name in ("energy_score", "crps")
    )
    assert energy[0] < 0.97 * energy[1]
    assert crps[0] == pytest.approx(crps[1], rel=0.1)


@pytest.mark.parametrize("name", ["crps", "twcrps", "crps_of_maxima", "energy_score"])
def test_scores_ignore_masked_pixels(name, rain, seen):
    """Half a map of sea scores as the other half alone, window by window."""
    rain = rain[:, :, :8]
    mask = np.ones(rain.shape, bool)
    mask[:, :, 4:] = False
    draws = draws_of(rain)
    term = build("loss", {"name": name, "poolings": [1, 2, 4]})
    whole = seen(rain, rain, mask, draws)
    half = seen(rain[..., :4], rain[..., :4], None, [d[..., :4] for d in draws])
    half.record = whole.record
    assert float(term(whole)) == pytest.approx(float(term(half)), rel=1e-5)
