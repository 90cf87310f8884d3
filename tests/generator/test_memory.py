"""Memory of a draw, and the tiles that are chosen for it."""

from __future__ import annotations

import math

import pytest
import torch

from xcvae.errors import ConfigError
from xcvae.generator.memory import (
    _control_group,
    _machine,
    available_memory,
    choose_tile,
    draw_bytes,
    draw_memory,
    stored_bytes,
    tiled_draws,
)
from xcvae.generator.network.architecture import PRESETS

SMALL = PRESETS["small"]
GB = 10**9


@pytest.mark.parametrize(
    ("size", "memory", "tile"),
    [
        ((300, 400), 4 * GB, None),
        ((1024, 1024), 4 * GB, None),
        ((1024, 1024), GB / 2, (256, 256)),
        ((2000, 800), 8 * GB, (1024, 800)),
        ((3500, 7000), 8 * GB, (1024, 1024)),
        ((3500, 7000), 2.5 * GB, (512, 512)),
        ((200, 200), 10**6, None),  # smaller than the smallest tile
    ],
)
def test_choose_tile(size, memory, tile):
    domain = dict(zip("yx", size, strict=True))
    chosen = choose_tile(domain, SMALL, memory=memory)
    assert chosen == (None if tile is None else dict(zip("yx", tile, strict=True)))


def test_more_draws_at_a_time_need_smaller_tiles():
    domain = {"y": 1024, "x": 1024}
    assert choose_tile(domain, SMALL, memory=GB) is None
    assert choose_tile(domain, SMALL, memory=GB, draws=8, threads=8) is not None


@pytest.mark.parametrize(
    ("side", "memory", "number"),
    [(1000, 8 * GB, 4), (1000, GB, 1), (4000, 8 * GB, 3), (4000, 4 * GB, 1), (4000, 1, 1)],
)
def test_draws_in_tiles_at_a_time_follow_from_the_memory(side, memory, number):
    assert tiled_draws((side, side), (512, 512), SMALL, memory=memory, most=4) == number


def test_draw_bytes_grow_with_the_map_and_the_network():
    # Measured peaks of a prior draw in float32: 280 and 600 bytes per pixel, with nothing else.
    small, base = (draw_bytes((1024, 1024), PRESETS[name]) / 2**20 for name in ("small", "base"))
    assert 280 < small < 600 < base < 1200


def test_available_memory_is_that_of_this_machine():
    assert 2**27 < available_memory(torch.device("cpu")) < 2**50


def test_memory_of_draws_is_that_of_the_environment_variable(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.delenv("XCVAE_MEMORY", raising=False)
    assert draw_memory(cpu) == pytest.approx(available_memory(cpu) / 2, rel=0.2)
    default = stored_bytes()
    monkeypatch.setenv("XCVAE_MEMORY", "6 GB")
    assert (draw_memory(cpu), stored_bytes()) == (6 * GB, default)
    monkeypatch.setenv("XCVAE_MEMORY", "80 MB")
    assert (draw_memory(cpu), stored_bytes()) == (80e6, 10e6)
    monkeypatch.setenv("XCVAE_MEMORY", "much")
    with pytest.raises(ConfigError, match=r"XCVAE_MEMORY.*'much'"):
        draw_memory(cpu)


def test_limits_of_control_groups_count(tmp_path):
    assert _control_group(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert _control_group(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("5000\n")
    assert _control_group(tmp_path) == 4000
    # Pages of files that were read are given back, also those that were read twice.
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 600\nactive_file 50\n")
    assert _control_group(tmp_path) == 4650
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 300 kB\nMemAvailable: 200 kB\nHugePages_Total: 0\n")
    assert _machine(meminfo) == 200 * 1024
