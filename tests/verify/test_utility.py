"""Additions to a record: recipes, training of the network, and differences of its scores."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import ConfigError, DataError, MismatchError
from xcvae.fields.samples import heavy
from xcvae.generator.model import Model
from xcvae.metrics import csi, sedi
from xcvae.verify import utility
from xcvae.verify.utility import Extra
from xcvae.verify.utility.comparison import (
    HELPS,
    HURTS,
    NOTHING,
    UNSCORED,
    Experiments,
    PairedDifference,
    paired_difference,
)
from xcvae.verify.utility.downstream import (
    Pool,
    Settings,
    draw_batch,
    fit_network,
    initial_network,
    predict,
    train_network,
)
from xcvae.verify.utility.recipes import Fields

BRIEF = {"steps": 60, "channels": 8, "blocks": 1, "crop": 36, "batch_size": 4}
TINY = {**BRIEF, "steps": 3}
COMMON = (0.8, 0.9, 0.95)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rain(radar: xr.Dataset) -> xr.Dataset:
    return radar[["pr"]].isel(y=slice(0, 72), x=slice(0, 60))


@pytest.fixture(scope="module")
def train(rain: xr.Dataset) -> xr.Dataset:
    return rain.isel(time=np.flatnonzero(rain.split.values == 0)[::30])


@pytest.fixture(scope="module")
def test(rain: xr.Dataset) -> xr.Dataset:
    return rain.isel(time=np.flatnonzero(rain.split.values == 2)[::10])


def mean(counts: np.ndarray) -> np.ndarray:
    """A score of counts (..., 1): their mean per sample."""
    return np.asarray(counts[..., 0])


def test_paired_difference_rarely_excludes_a_true_zero() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(250):
        # Common effects of samples and seeds cancel; individual ones do not.
        common = rng.normal(size=(1, 60, 1)) + rng.normal(size=(5, 1, 1))
        own, base = (
            common + 0.02 * rng.normal(size=(5, 1, 1)) + 0.1 * rng.normal(size=(1, 60, 1))
            for _ in range(2)
        )
        found = paired_difference(own, base, mean, np.arange(60))
        wrong += not found.low <= 0 <= found.high
    assert 1 <= wrong <= 0.08 * 250


@pytest.mark.parametrize(("shift", "verdict"), [(0.5, HELPS), (-0.5, HURTS), (0.0, NOTHING)])
def test_paired_difference_cancels_common_noise(shift: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    base = 10 * rng.normal(size=(1, 60, 1)) + 10 * rng.normal(size=(5, 1, 1))
    own = base + (shift + 0.3 * rng.normal(size=(5, 60, 1))) / 60
    found = paired_difference(own, base, mean, np.arange(60))
    assert found.difference == pytest.approx(shift, abs=0.1)
    assert found.verdict("higher") == verdict
    opposite = {HELPS: HURTS, HURTS: HELPS, NOTHING: NOTHING}
    assert found.verdict("lower") == opposite[verdict]
    assert PairedDifference(0.1, np.nan, np.nan).verdict("higher") == UNSCORED


def test_paired_difference_blocks_are_of_time() -> None:
    rng = np.random.default_rng(2)
    storms = np.repeat(rng.normal(size=8), 10)[None, :, None]
    shuffled = rng.permutation(80)
    own, base = np.repeat(storms, 3, axis=0), np.zeros((3, 80, 1))
    in_time = paired_difference(own, base, mean, np.arange(80))
    mixed = paired_difference(own[:, shuffled], base, mean, np.argsort(shuffled))
    ignored = paired_difference(own[:, shuffled], base, mean, np.arange(80))
    assert mixed == pytest.approx(in_time)
    assert ignored.high - ignored.low < 0.6 * (in_time.high - in_time.low)


def test_compare_finds_help_and_harm(radar: xr.Dataset) -> None:
    frames, split = radar[["pr"]], radar.split.values
    known = frames.isel(time=split == 0)
    by_rain = np.argsort(known.pr.mean(("y", "x")).values)
    light, rest = (
        known.isel(time=np.sort(rows))
        for rows in (by_rain[60:64], np.r_[by_rain[:60], by_rain[64:]])
    )
    # The rain of each block in its corner pixel: only the block mean is right.
    heaped = xr.zeros_like(rest.pr)
    heaped[:, ::12, ::12] = 144 * rest.pr.coarsen(y=12, x=12).mean().values
    found = utility.compare(
        light,
        frames.isel(time=np.flatnonzero(split == 2)[::2]),
        {"real": [Extra(rest.pr, 0.9)], "heaped": [Extra(heaped, 0.9)]},
        coarsen=12,
        losses=["quantile"],
        levels=[0.95, 0.99],
        thresholds=[1.0, 5.0],
        network=BRIEF,
        progress=False,
    ).isel(loss=0)
    for score in ("csi", "sedi"):
        verdict = found[f"{score}_verdict"]
        assert verdict.sel(recipe="real", level=0.99) == HELPS
        assert verdict.sel(recipe="heaped", level=0.95) == HURTS
    assert found.csi.attrs["better"] == "higher"
    assert found.tail_mae.attrs["units"] == "mm h-1"
    gain = found.csi.sel(recipe="real") - found.csi.sel(recipe="record")
    np.testing.assert_allclose(found.csi_difference.sel(recipe="real"), gain)


def test_compare_finds_no_effect_of_copies(train: xr.Dataset, test: xr.Dataset) -> None:
    found = utility.compare(
        train, test, {"copies": [Extra(train.pr, 0.5)]}, coarsen=12, seeds=2, network=TINY,
        levels=COMMON, progress=False,
    )  # fmt: skip
    for score in ("csi", "sedi", "tail_mae"):
        assert (found[f"{score}_difference"].sel(recipe="copies") == 0).all()
        assert (found[f"{score}_verdict"].sel(recipe="copies") == NOTHING).all()
    text = utility.table(found)
    assert "heads P99.9, P95" in text
    assert list(found.loss.values) == ["l1", "heads P50", "heads P95", "heads P99", "heads P99.9"]
    assert text.count("copies") == text.count(NOTHING) == 5 * 3 * 3


def test_compare_continues_from_kept_counts(
    train: xr.Dataset, test: xr.Dataset, tmp_path: Path
) -> None:
    def again(keep: Path | None, **network: int) -> xr.Dataset:
        return utility.compare(
            train, test, {"more": [Extra(train.pr.isel(time=[0, 1]), 0.5)]}, coarsen=12, seeds=2,
            losses=["l1"], levels=COMMON, network={**TINY, **network}, keep=keep, progress=False,
        )  # fmt: skip

    first = again(tmp_path)
    counts = sorted(tmp_path.iterdir())
    assert len(counts) == 4
    counts[0].unlink()  # as after an interruption
    times = {path: path.stat().st_mtime_ns for path in counts[1:]}
    xr.testing.assert_identical(again(tmp_path), first)
    assert {path: path.stat().st_mtime_ns for path in counts[1:]} == times
    xr.testing.assert_identical(again(None), first)
    assert not again(tmp_path, steps=4).equals(first)
    assert len(list(tmp_path.iterdir())) == 8


def test_compare_scores_equal_metrics(train: xr.Dataset, test: xr.Dataset) -> None:
    found = utility.compare(
        train, test, {"more": [Extra(train.pr, 0.5)]}, coarsen=12, seeds=2, losses=["quantile"],
        levels=[0.95], network=TINY, progress=False,
    ).isel(loss=0, level=0, recipe=0)  # fmt: skip
    limit = float(found.threshold)
    assert limit == pytest.approx(np.quantile(train.pr, 0.95))
    record = Fields.of(train.pr, factor=12, what="record")
    tested = Fields.of(test.pr, factor=12, what="test", like=record)
    scores = []
    for seed in range(2):
        network = train_network(
            [Pool(record.coarse, record.fine, 1.0)],
            factor=12, loss="quantile", settings=Settings.of(TINY), seed=seed, device=CPU,
        )  # fmt: skip
        (fine,) = record.scaling.physical(predict(network, tested.coarse)).numpy()
        rain = test.pr.copy(data=fine)
        tail = np.abs(np.maximum(rain, limit) - np.maximum(test.pr, limit)).mean()
        scores.append([csi(rain, test.pr, threshold=limit), sedi(rain, test.pr, threshold=limit)])
        scores[-1].append(tail)
    np.testing.assert_allclose(
        [found.csi, found.sedi, found.tail_mae], np.mean(scores, axis=0), rtol=1e-5
    )


def test_compare_refuses_test_fields_in_training(train: xr.Dataset, test: xr.Dataset) -> None:
    wettest = int(np.argmax(test.pr.mean(("y", "x")).values))
    leaked = xr.concat([train, test.isel(time=[wettest])], "time")
    options = {"coarsen": 12, "seeds": 2, "network": TINY, "progress": False}
    with pytest.raises(MismatchError, match="record: expected no field of the test samples, got 1"):
        utility.compare(leaked, test, {}, **options)
    with pytest.raises(MismatchError, match=r"recipe 'more'.*got 1 of them"):
        utility.compare(train, test, {"more": [Extra(leaked.pr, 0.5)]}, **options)


def test_recipes_take_storms_of_the_record_only(
    train_radar: xr.Dataset, test_radar: xr.Dataset, tiny_model: Model
) -> None:
    train = train_radar.isel(time=slice(None, None, 40))
    drawn = {
        mode: xcvae.sample(train, tiny_model, mode=mode, members=3, progress=False)
        for mode in ("posterior", "prior")
    }
    made = utility.recipes(train, **drawn, select=[train.time.values[1]], share=0.5, target="pr")
    assert list(made) == ["duplicated", "posterior", "prior", "both"]
    chosen = heavy(train, target="pr").values
    np.testing.assert_array_equal(made["duplicated"][0].fields, train.pr[chosen])
    for mode, ensemble in drawn.items():
        np.testing.assert_array_equal(made[mode][0].fields, ensemble.pr[:, 1])
        assert made[mode][0].fields.attrs["units"] == "mm h-1"
    assert [one.share for recipe in made.values() for one in recipe] == [0.5, 0.5, 0.5, 0.25, 0.25]
    later = xcvae.sample(test_radar, tiny_model, members=1, progress=False)
    with pytest.raises(MismatchError, match="samples of the Dataset only"):
        utility.recipes(train, prior=later, target="pr")
    with pytest.raises(ConfigError, match="share: expected a share between 0 and 1, got 1"):
        utility.recipes(train, prior=drawn["prior"], share=1, target="pr")


def test_fields_have_block_means_in_units_of_the_record(train: xr.Dataset) -> None:
    record = Fields.of(train.pr, factor=12, what="record")
    metres = (train.pr.transpose("x", "time", "y") / 3.6e6).assign_attrs(units="m s-1")
    same = Fields.of(metres, factor=12, what="storms", like=record)
    np.testing.assert_allclose(same.rain, record.rain, rtol=1e-5)
    means = train.pr.coarsen(y=12, x=12).mean()
    physical = record.scaling.physical(torch.from_numpy(record.coarse))
    np.testing.assert_allclose(physical, means, rtol=1e-3, atol=1e-5)
    with pytest.raises(DataError, match="storms: expected rain without gaps"):
        Fields.of(train.pr.where(train.pr > 0), factor=12, what="storms", like=record)
    with pytest.raises(MismatchError, match=r"coarsen: .*divides"):
        Fields.of(train.pr, factor=7, what="record")


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in network.parameters()])


def test_train_network_depends_on_the_seed_only(train: xr.Dataset) -> None:
    record = Fields.of(train.pr, factor=12, what="record")
    pools = [Pool(record.coarse, record.fine, 1.0)]
    settings = Settings.of({**TINY, "learning_rate": 1e-2})

    def trained(seed: int) -> torch.Tensor:
        before = torch.random.get_rng_state()
        network = train_network(
            pools, factor=12, loss="l1", settings=settings, seed=seed, device=CPU
        )
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(1)  # the state of the global generator has no effect
        return weights(network)

    def fitted(weight_seed: int, batch_seed: int) -> torch.Tensor:
        network = initial_network(12, settings, weight_seed)
        rng = np.random.default_rng(batch_seed)
        return weights(fit_network(network, pools, "l1", settings, rng))

    assert torch.equal(trained(1), trained(1))
    assert torch.equal(trained(1), fitted(1, 1))
    # Both the initial weights and the batches depend on the seed.
    assert not torch.equal(trained(1), fitted(0, 1))
    assert not torch.equal(trained(1), fitted(1, 0))


def test_initial_network_leaves_the_generators_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    initial_network(2, Settings(channels=8, blocks=1), 5)
    assert seeded == []


def test_draw_batch_depends_on_the_generator_only(train: xr.Dataset) -> None:
    record = Fields.of(train.pr, factor=12, what="record")
    real = Pool(record.coarse, record.fine, 0.5)
    added = Pool(record.coarse, record.fine + 100, 0.5)
    settings = Settings.of({**TINY, "batch_size": 64})

    def fine(pools: list[Pool], seed: int) -> np.ndarray:
        return draw_batch(pools, settings, np.random.default_rng(seed))[1]

    np.testing.assert_array_equal(fine([real], 0), fine([real], 0))
    assert not np.array_equal(fine([real], 0), fine([real], 1))
    # Additions replace samples of the real batch, which are otherwise the same.
    mixed, alone = fine([real, added], 0), fine([real], 0)
    replaced = (mixed > 50).all(axis=(1, 2, 3))
    assert 0.3 < replaced.mean() < 0.7
    np.testing.assert_array_equal(mixed[~replaced], alone[~replaced])


@pytest.mark.parametrize("factor", [2, 5, 12])
def test_network_fits_any_factor_and_the_quantile(factor: int) -> None:
    rng = np.random.default_rng(0)
    coarse = np.full((20, 4, 4), 0.5, np.float32)
    fine = rng.uniform(0, 1, (20, 4 * factor, 4 * factor)).astype(np.float32)
    settings = Settings.of({**BRIEF, "steps": 80, "quantile": 0.9, "learning_rate": 1e-2})
    made = {
        loss: predict(
            train_network(
                [Pool(coarse, fine, 1.0)],
                factor=factor, loss=loss, settings=settings, seed=0, device=CPU,
            ),
            coarse[:2],
        )[0]
        for loss in ("l1", "quantile")
    }  # fmt: skip
    assert made["l1"].shape == (2, 4 * factor, 4 * factor)
    assert float(made["l1"].mean()) == pytest.approx(0.5, abs=0.08)
    assert float(made["quantile"].mean()) == pytest.approx(0.9, abs=0.08)


def test_heads_are_quantiles_of_one_network() -> None:
    rng = np.random.default_rng(0)
    coarse = np.full((20, 4, 4), 0.5, np.float32)
    fine = rng.uniform(0, 1, (20, 8, 8)).astype(np.float32)
    settings = Settings.of({**BRIEF, "steps": 150, "heads": [0.9, 0.2], "learning_rate": 1e-2})
    network = train_network(
        [Pool(coarse, fine, 1.0)], factor=2, loss="heads", settings=settings, seed=0, device=CPU
    )
    low, high = predict(network, coarse[:2])
    assert low.shape == (2, 8, 8)
    assert float(low.mean()) == pytest.approx(0.2, abs=0.08)
    assert float(high.mean()) == pytest.approx(0.9, abs=0.08)
    assert list(settings.students("heads").items()) == [("heads P20", 0.2), ("heads P90", 0.9)]


def test_tail_error_of_a_head_is_the_pinball_loss(train: xr.Dataset, test: xr.Dataset) -> None:
    options = {"coarsen": 12, "seeds": 2, "losses": ["heads"], "levels": [0.9], "progress": False}
    network = {**TINY, "heads": [0.5, 0.95]}
    found = utility.compare(train, test, {}, network=network, **options)
    record = Fields.of(train.pr, factor=12, what="record")
    tested = Fields.of(test.pr, factor=12, what="test", like=record)
    limit, expected = float(found.threshold[0]), np.zeros(2)
    for seed in range(2):
        heads = train_network(
            [Pool(record.coarse, record.fine, 1.0)],
            factor=12, loss="heads", settings=Settings.of(network), seed=seed, device=CPU,
        )  # fmt: skip
        rain = record.scaling.physical(predict(heads, tested.coarse)).numpy()
        for head, level in enumerate((0.5, 0.95)):
            missing = np.maximum(tested.rain, limit) - np.maximum(rain[head], limit)
            expected[head] += np.where(missing > 0, level * missing, (level - 1) * missing).mean()
    np.testing.assert_allclose(found.tail_mae.isel(recipe=0, level=0), expected, rtol=1e-5)


def test_recipes_of_amplified_storms_come_with_scaled_pairs(
    train_radar: xr.Dataset, tiny_model: Model
) -> None:
    train = train_radar.isel(time=slice(None, None, 60))
    heavy_ones = train.isel(time=utility.heaviest(train, 0.4, target="pr").values)
    stronger = [
        xcvae.sample(heavy_ones, tiny_model, members=1, progress=False,
                     storms={"name": "amplify", "factor": factor})
        for factor in (1.5, 2.5)
    ]  # fmt: skip
    moved = xcvae.sample(heavy_ones, tiny_model, members=1, storms="turn", progress=False)
    made = utility.recipes(
        train[["pr"]], storms={"amplified": stronger, "moved": moved}, target="pr", share=0.5
    )
    assert list(made) == ["duplicated", "amplified", "moved", "scaled"]
    assert [one.share for one in made["amplified"]] == [0.25, 0.25]
    np.testing.assert_array_equal(made["amplified"][1].fields, stronger[1].pr[0])
    for extra, factor in zip(made["scaled"], (1.5, 2.5), strict=True):
        np.testing.assert_allclose(extra.fields, factor * heavy_ones.pr, rtol=1e-6)
        assert extra.fields.attrs["units"] == "mm h-1"
    found = utility.compare(
        train, train_radar.isel(time=[5, 7, 9]), {n: made[n] for n in ("amplified", "scaled")},
        coarsen=12, seeds=2, losses=["l1"], levels=[0.9], network=TINY, against="scaled",
        target="pr", progress=False,
    ).isel(loss=0, level=0)  # fmt: skip
    gain = found.csi - found.csi.sel(recipe="scaled")
    np.testing.assert_allclose(found.csi_difference[:2], gain[:2])
    assert found.csi_verdict.values.tolist()[2] == ""
    assert "csi: scaled" in utility.table(found.expand_dims(["loss", "level"]))


def test_heaviest_finds_the_largest_99th_percentiles(train: xr.Dataset) -> None:
    found = utility.heaviest(train, 0.2)
    amounts = train.pr.quantile(0.99, ("y", "x"))
    assert found.sum() == round(0.2 * train.sizes["time"])
    assert amounts[found].min() > amounts[~found].max()
    with pytest.raises(ConfigError, match="share: expected a share between 0 and 1"):
        utility.heaviest(train, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "seeds: expected at least 2"),
        ({"levels": [99]}, "levels: expected quantiles between 0 and 1"),
        ({"thresholds": [1.0]}, "thresholds: expected 3 amounts"),
        ({"losses": ["l2"]}, "losses: unknown 'l2'"),
        ({"network": {"step": 3}}, "network: unknown key 'step'. Did you mean 'steps'"),
        ({"network": {"quantile": 1.0}}, "network.quantile: expected a share"),
        ({"network": {"heads": [0.5, 1.0]}}, "network.heads: expected a share"),
        ({"against": "scale", "recipes": {"scaled": [Extra(None, 0.5)]}}, "against: .*'scaled'"),
        ({"recipes": {"record": []}}, "recipes: expected names of additions"),
        ({"recipes": {"none": []}}, "recipe 'none': expected shares above 0"),
    ],
)
def test_compare_refuses_invalid_settings(
    train: xr.Dataset, test: xr.Dataset, options: dict[str, object], message: str
) -> None:
    recipes = options.pop("recipes", {})
    with pytest.raises(ConfigError, match=message):
        utility.compare(train, test, recipes, coarsen=12, **options)


def small_experiment(
    train: xr.Dataset, test: xr.Dataset, keep: Path, change: Mapping[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """Identity and counts of one experiment on a few small maps."""
    given = {
        "record": 4, "test": 3, "added": 1, "factor": 12, "limits": [0.5, 2.0], "network": {},
        "device": "cpu", "share": 0.5, "loss": "l1", "seed": 0, **change,
    }  # fmt: skip
    area = {"y": slice(24), "x": slice(24)}
    options = {"factor": given["factor"]}
    record = Fields.of(train.pr.isel(area)[: given["record"]], **options, what="record")
    tested = Fields.of(test.pr.isel(area)[: given["test"]], **options, what="test", like=record)
    added = Fields.of(train.pr.isel(area)[[given["added"]]], **options, what="more", like=record)
    settings = Settings.of({**TINY, "crop": 12, "steps": 2, **given["network"]})
    limits = np.asarray(given["limits"])
    made = Experiments(record, tested, limits, settings, given["device"], keep)
    keep.mkdir(exist_ok=True)
    mix, loss, seed = [(added, given["share"])], given["loss"], given["seed"]
    return made.identity(mix, loss, seed), made.counts(mix, loss, seed)


#: Changes of inputs by the key of the identity that has to tell them apart.
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("data", {"record": 5}),
    ("data", {"test": 2}),
    ("data", {"added": 2}),
    ("shares", {"share": 0.3}),
    ("factor", {"factor": 6}),
    ("limits", {"limits": [0.5, 2.1]}),
    *(("settings", {"network": {key: value}}) for key, value in {
        "steps": 3, "batch_size": 5, "learning_rate": 1e-3, "crop": 24, "channels": 4, "blocks": 2,
        "quantile": 0.9, "heads": [0.5, 0.9],
    }.items()),
    ("loss", {"loss": "quantile"}),
    ("seed", {"seed": 1}),
    ("device", {"device": "auto"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "change"),
    CHANGES,
    ids=[f"{key}-{'-'.join(change.get('network', change))}" for key, change in CHANGES],
)
def test_experiments_do_not_reuse_counts_of_other_inputs(
    train: xr.Dataset, test: xr.Dataset, tmp_path: Path, key: str, change: Mapping[str, Any]
) -> None:
    keep, fresh = tmp_path / "keep", tmp_path / "fresh"
    identity, _ = small_experiment(train, test, keep, {})
    other, counts = small_experiment(train, test, keep, change)
    assert {name for name in identity if identity[name] != other[name]} == {key}
    assert len(list(keep.iterdir())) == 2
    np.testing.assert_array_equal(counts, small_experiment(train, test, fresh, change)[1])
    small_experiment(train, test, keep, change)
    assert len(list(keep.iterdir())) == 2


def test_every_key_of_the_identity_of_counts_is_tested(
    train: xr.Dataset, test: xr.Dataset, tmp_path: Path
) -> None:
    identity, _ = small_experiment(train, test, tmp_path, {})
    assert set(identity) == {key for key, _ in CHANGES} | {"xcvae"}
    assert identity["xcvae"] == version("xcvae")
    changed = {name for key, change in CHANGES if key == "settings" for name in change["network"]}
    assert set(identity["settings"]) == changed


def test_paired_difference_adds_the_standard_error_over_seeds() -> None:
    # Samples are alike, so that the interval is that of the seeds alone: t(2) sd / sqrt(3).
    effects = np.array([0.1, 0.4, 0.7])
    own = np.repeat(effects, 40).reshape(3, 40, 1)
    found = paired_difference(
        own, np.zeros_like(own), lambda sums: sums[..., 0] / 40, np.arange(40)
    )
    half = 4.302652729911275 * 0.3 / np.sqrt(3)
    assert found == pytest.approx((0.4, 0.4 - half, 0.4 + half))
