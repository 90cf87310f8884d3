"""Standard normal deviates with an address.

A deviate is a function of (seed, sample label, realization, mode, attempt, level, channel, row,
column) alone, through the counter-based generator Philox (Salmon et al. 2011,
doi:10.1145/2063384.2063405). Rows and columns are those of the whole domain, so the same storm
gets the same member whatever the batch, the order, the number of workers, the tile or the device.
Members that evolve in time replace the label by knots of a time axis (`TimeAxis`).
"""

from __future__ import annotations

from xcvae.generator.noise.address import Address, Window
from xcvae.generator.noise.maps import backend, maps_of, normal_maps, words_on
from xcvae.generator.noise.philox_numpy import normals
from xcvae.generator.noise.time_axis import TimeAxis, correlation

__all__ = [
    "Address",
    "TimeAxis",
    "Window",
    "backend",
    "correlation",
    "maps_of",
    "normal_maps",
    "normals",
    "words_on",
]
