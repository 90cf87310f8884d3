"""Properties of regions: they tile the ensemble, and each has a chunk file of its own."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.ensemble.store.base import plan_chunks, regions_of
from xcvae.ensemble.store.zarr_format import encode_chunk

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6))
CHUNKS = st.tuples(st.integers(1, 45), st.integers(1, 45))


@given(sizes=SIZES, chunks=CHUNKS)
@settings(max_examples=200, deadline=None)
def test_regions_cover_every_member_of_every_sample_once(sizes, chunks):
    covered = np.zeros(sizes[:2], int)
    regions = list(regions_of(chunks, sizes))
    for region in regions:
        part = covered[slice(*region.realizations), slice(*region.samples)]
        assert part.size == region.fields
        part += 1
    assert (covered == 1).all()
    assert [region.number for region in regions] == list(range(len(regions)))


@given(sizes=SIZES, chunks=CHUNKS)
@settings(max_examples=50, deadline=None)
def test_every_region_has_a_chunk_file_of_its_own(sizes, chunks):
    regions = list(regions_of(chunks, sizes))
    files = set()
    for region in regions:
        size = [last - first for first, last in (region.realizations, region.samples)]
        name, content = encode_chunk(region, chunks, np.zeros((*size, *sizes[2:]), "float32"))
        assert content
        files.add(name)
    assert len(files) == len(regions)


@given(
    sizes=SIZES,
    members=st.none() | st.integers(1, 50),
    samples=st.none() | st.integers(1, 50),
)
@settings(max_examples=200, deadline=None)
def test_planned_chunks_fit_into_the_ensemble(sizes, members, samples):
    given_chunks = {
        name: size for name, size in (("realization", members), ("time", samples)) if size
    }
    planned = plan_chunks(given_chunks or None, sizes=sizes, sample="time")
    assert all(1 <= chunk <= size for chunk, size in zip(planned, sizes[:2], strict=True))
    for name, chunk, size in zip(("realization", "time"), planned, sizes[:2], strict=True):
        if name in given_chunks:
            assert chunk == min(given_chunks[name], size)


@given(sizes=SIZES, chunks=CHUNKS, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_encoded_chunks_decode_to_their_values(sizes, chunks, seed):
    from numcodecs.zstd import Zstd

    region = list(regions_of(chunks, sizes))[-1]
    size = [last - first for first, last in (region.realizations, region.samples)]
    values = np.random.default_rng(seed).gamma(0.3, 2, (*size, *sizes[2:])).astype("float32")
    decoded = np.frombuffer(Zstd().decode(encode_chunk(region, chunks, values)[1]), "<f4")
    whole = decoded.reshape(*chunks, *sizes[2:])
    np.testing.assert_array_equal(whole[: size[0], : size[1]], values)
    assert np.isnan(whole[size[0] :]).all()
    assert np.isnan(whole[:, size[1] :]).all()
