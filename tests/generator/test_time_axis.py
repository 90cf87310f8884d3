"""The time axis of the noise: variance, correlation, and the same bits wherever it is computed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.generator.noise import Address, TimeAxis, Window, correlation, maps, normal_maps
from xcvae.generator.noise.address import address_words
from xcvae.generator.noise.philox_torch import tensor_normals
from xcvae.generator.noise.time_axis import RESIDUAL

CPU = torch.device("cpu")
HOUR = 3_600_000_000
AXIS = TimeAxis(HOUR)
WINDOW = Window(0, (2, 12, 9))


def evolving(times, window=WINDOW, axis=AXIS, **how):
    """Return deviates of one member at some times, (time, *window.shape)."""
    addresses = [Address(0, f"label {t}", how.get("member", 0), "prior", 0, t) for t in times]
    return normal_maps(addresses, [window], device=CPU, axes=[axis])[0].numpy()


def exact_correlation(axis: TimeAxis, one: int, other: int) -> float:
    weights = dict(axis.knots(other))
    return sum(weight * weights.get(label, 0.0) for label, weight in axis.knots(one))


@given(time=st.integers(-(10**18), 10**18), timescale=st.integers(1, 10**17))
@settings(max_examples=200, deadline=None)
def test_squares_of_the_weights_add_up_to_one(time, timescale):
    assert exact_correlation(TimeAxis(timescale), time, time) == pytest.approx(1, abs=3e-7)


@pytest.mark.parametrize("distance", [0.1, 0.3, 0.5, 1.0, 1.5, 2.5, 4.0])
def test_correlation_depends_on_the_distance_of_times_not_on_their_position(distance):
    starts = np.linspace(0, 3 * HOUR, 211).astype(int)
    found = [exact_correlation(AXIS, int(t), int(t + distance * HOUR)) for t in starts]
    assert max(found) - min(found) < RESIDUAL
    assert np.mean(found) == pytest.approx(correlation(np.array(distance)).item(), abs=RESIDUAL)


def test_correlation_of_the_deviates_is_that_of_the_weights():
    times = [t * HOUR // 12 for t in range(48)]
    values = evolving(times, Window(0, (4, 60, 60))).reshape(len(times), -1)
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    measured = np.corrcoef(values)
    for lag in (1, 6, 12, 24):
        expected = exact_correlation(AXIS, 0, lag * HOUR // 12)
        assert np.diag(measured, lag).mean() == pytest.approx(expected, abs=0.02)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_deviates_do_not_depend_on_other_times_order_or_cache(data):
    times = data.draw(st.lists(st.integers(-3 * HOUR, 3 * HOUR), min_size=2, max_size=6))
    together = evolving(times)
    order = data.draw(st.permutations(range(len(times))))
    assert np.array_equal(evolving([times[i] for i in order]), together[list(order)])
    maps._cache.__init__(0)  # nothing fits: every knot is computed again
    for time, expected in zip(times, together, strict=True):
        assert np.array_equal(evolving([time])[0], expected)
    maps._cache.__init__(2**20)


def test_cache_of_knots_drops_what_was_used_longest_ago():
    cache = maps._KnotCache(3 * 40)
    values = [torch.full((10,), float(n)) for n in range(5)]
    for number in range(3):
        cache.put(number, values[number])
    cache.get([0])
    cache.put(3, values[3])
    cache.put(3, values[4])  # known already
    assert [found is not None for found in cache.get(range(4))] == [True, False, True, True]
    assert cache.get([3])[0] is values[3]
    assert cache.used == 3 * 40


def test_cached_knots_hold_no_memory_of_others():
    maps._cache.__init__(2**20)
    evolving([HOUR // 3])
    stored = list(maps._cache._maps.values())
    assert len(stored) > 5
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in stored)


def test_part_of_a_window_has_the_deviates_of_the_whole():
    part = evolving([5 * HOUR // 7], Window(0, (2, 4, 5), (3, 2)))
    assert np.array_equal(part[0], evolving([5 * HOUR // 7])[0, :, 3:7, 2:7])


def test_levels_without_an_axis_have_the_deviates_of_the_label():
    addresses = [Address(0, "a", 1, "prior", 0, HOUR), Address(0, "b", 1, "prior", 0, 2 * HOUR)]
    windows = [Window(0, (1, 4, 4)), Window(1, (2, 8, 8))]
    plain = normal_maps(addresses, windows, device=CPU)
    found = normal_maps(addresses, windows, device=CPU, axes=[AXIS, None])
    assert not torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])
    assert TimeAxis.of(0) is None


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"realization": 1}, {"mode": "posterior"}, {"attempt": 1}],
    ids=lambda one: next(iter(one)),
)
def test_deviates_of_other_addresses_are_independent(other):
    base = {"seed": 0, "label": "", "realization": 0, "mode": "prior", "attempt": 0, "time": HOUR}
    addresses = [Address(**base), Address(**{**base, **other})]
    one, two = normal_maps(addresses, [Window(0, (1, 60, 60))], device=CPU, axes=[AXIS])[0].numpy()
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.06


def test_labels_of_a_time_do_not_matter():
    addresses = [Address(0, label, 0, "prior", 0, HOUR) for label in ("a", "b")]
    one, two = normal_maps(addresses, [WINDOW], device=CPU, axes=[AXIS])[0]
    assert torch.equal(one, two)


def summed(times, deviates_of):
    """Return the deviates of some times, with the knots' from another backend."""
    rows = []
    for time in times:
        knots = [(Address(0, label, 0, "prior"), weight) for label, weight in AXIS.knots(time)]
        words = torch.from_numpy(address_words([knot for knot, _ in knots]).astype("int64"))
        total = np.zeros(WINDOW.shape, np.float32)
        for values, (_, weight) in zip(deviates_of(words, WINDOW).numpy(), knots, strict=True):
            total += values * np.float32(weight)
        rows.append(total)
    return np.stack(rows)


def test_torch_backend_has_the_bits_of_numpy():
    times = [0, HOUR // 7, 3 * HOUR]
    assert np.array_equal(summed(times, tensor_normals), evolving(times))


def test_values_keep_their_bits():
    values = evolving([0, HOUR // 3, 10**15])
    assert values[:, 0, 0, 0].tolist() == [
        1.4484144449234009,
        1.3972225189208984,
        1.9307279586791992,
    ]


def test_triton_interpreter_has_the_bits_of_numpy():
    pytest.importorskip("triton")
    code = (
        "import importlib.util as u, sys, numpy as np;"
        f"s = u.spec_from_file_location('tests_of_axis', {__file__!r});"
        "m = u.module_from_spec(s); sys.modules[s.name] = m; s.loader.exec_module(m);"
        "from xcvae.generator.noise.philox_triton import fused_normals;"
        "assert np.array_equal(m.summed([m.HOUR // 7], fused_normals), m.evolving([m.HOUR // 7]))"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        timeout=600,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_has_the_bits_of_the_host():
    addresses = [Address(0, "", m, "prior", 0, t) for m in (0, 1) for t in (0, HOUR // 7, 3 * HOUR)]
    windows = [WINDOW, Window(1, (3, 30, 70), (29, 5))]
    axes = [AXIS, TimeAxis(HOUR // 5)]
    host = normal_maps(addresses, windows, device=CPU, axes=axes)
    made = normal_maps(addresses, windows, device=torch.device("cuda"), axes=axes)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(made, host, strict=True))
