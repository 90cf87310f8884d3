"""Which samples training learns from, and which it only validates on."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, EmptySelectionError, explain
from xcvae.fields.selection import storms_of
from xcvae.fields.spec import DataSpec, prepare
from xcvae.fields.values import check_values

__all__ = ["split"]

#: Blocks that a share of the record is held back in: neighbours in time are nearly copies.
HELD_BACK_BLOCKS = 5


def split(
    ds: xr.Dataset, spec: DataSpec, validation: float | xr.Dataset
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Prepare the Dataset and hold samples back, in contiguous blocks.

    Of augmented data real samples are held back; their synthetic variants are left out, for they
    would give them away.
    """
    prepared = prepare(ds, spec, need_target=True, augmented=True)
    check_values(prepared, spec)
    if isinstance(validation, xr.Dataset):
        held_back = prepare(validation, spec, need_target=True)
        check_values(held_back, spec)
        return prepared, held_back
    if isinstance(validation, bool) or not 0 <= validation < 1:
        raise ConfigError(
            explain(
                "validation",
                expected="a share from 0 to below 1, or a Dataset",
                got=repr(validation),
                remedy="0.15 holds back 15 % of the samples.",
            )
        )
    storm, observed = storms_of(prepared, spec.sample)
    total = int(storm.max()) + 1
    count = round(validation * total)
    if count == 0:
        return prepared, None
    blocks = min(HELD_BACK_BLOCKS, count)
    held = np.zeros(total, bool)
    for part in np.array_split(np.arange(total), blocks):
        held[part[len(part) - round(validation * len(part)) :]] = True
    learned, kept_apart = ~held[storm], held[storm] & observed
    if not learned.any() or not kept_apart.any():
        raise EmptySelectionError(
            explain(
                "validation",
                expected="a share that leaves samples on both sides",
                got=f"{validation} of {total} samples",
                remedy="Give more samples or another share.",
            )
        )
    return prepared.isel({spec.sample: learned}), prepared.isel({spec.sample: kept_apart})
