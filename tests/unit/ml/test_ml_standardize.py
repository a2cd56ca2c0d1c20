"""A conversion is learned, measured on items it has not seen, and refused when it is worth nothing."""

import numpy as np
import pytest

from ml.errors import ContractError, NotEnoughDataError
from ml.standardize import UntrainedConversionError, learn, nearest, overlap, unit_rows

N_ITEMS, N_SHARED, TASTES = 600, 400, 24
ROWS = np.arange(N_SHARED)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(columns, rows)))[0].T


@pytest.fixture(scope="module")
def tastes():
    return np.random.default_rng(0).normal(size=(N_ITEMS, TASTES))


@pytest.fixture(scope="module")
def catalogue(tastes):
    """Vectors of a run as they are stored: prior, filler, learned coordinates that a few tastes explain."""
    rng = np.random.default_rng(1)
    learned = unit_rows(tastes @ orthonormal(rng, TASTES, 766))
    prior = rng.uniform(-0.2, 0.2, (N_ITEMS, 1))
    return unit_rows(np.hstack([prior, np.sqrt(0.04 - prior**2), learned])).astype(np.float32)


def source_of(tastes, d, noise=0.0):
    """Vectors of another model that knows the same tastes, of any norm."""
    rng = np.random.default_rng(2)
    vectors = tastes[:N_SHARED] @ rng.normal(size=(TASTES, d)) + noise * rng.normal(size=(N_SHARED, d))
    return vectors * rng.uniform(0.5, 3, (N_SHARED, 1))


@pytest.mark.parametrize("d", [48, 130])
def test_a_planted_linear_map_is_recovered_on_items_that_were_held_out(tastes, catalogue, d):
    source = source_of(tastes, d)
    conversion, kept = learn(source, catalogue, ROWS)
    assert kept.recall.mean > 0.85
    assert kept.recall.low <= kept.recall.mean <= kept.recall.high
    assert kept.chance < 0.1
    assert kept.mean_cosine > 0.95
    assert (kept.learned_from, kept.held_out) == (320, 80)
    converted = conversion.apply(source)
    assert (converted.shape, converted.dtype) == ((N_SHARED, 768), np.float32)
    assert np.allclose(np.linalg.norm(converted, axis=1), 1, atol=1e-5)
    assert np.allclose(conversion.apply(source * 7), converted, atol=1e-5)
    again = learn(source, catalogue, ROWS)[0]
    assert np.array_equal(again.apply(source), converted)


def test_a_rotation_is_found_as_one(tastes, catalogue):
    rng = np.random.default_rng(3)
    source = tastes[:N_SHARED] @ orthonormal(rng, TASTES, 30) + 0.3 * rng.normal(size=(N_SHARED, 30))
    conversion, kept = learn(source, catalogue, ROWS)
    assert conversion.method == "procrustes"
    assert kept.recall.mean > 0.5
    product = conversion.matrix @ conversion.matrix.T
    assert np.allclose(product, np.eye(30) * product[0, 0])


def test_more_noise_keeps_less(tastes, catalogue):
    kept = [learn(source_of(tastes, 48, noise), catalogue, ROWS)[1] for noise in (0.0, 3.0, 10.0)]
    recalls, cosines = [one.recall.mean for one in kept], [one.mean_cosine for one in kept]
    assert recalls == sorted(recalls, reverse=True)
    assert cosines == sorted(cosines, reverse=True)
    assert recalls[2] < 0.6 * recalls[0]


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_refused(catalogue, seed):
    noise = np.random.default_rng(seed).normal(size=(N_SHARED, 8 * 2**seed if seed < 5 else 64))
    with pytest.raises(UntrainedConversionError, match=r"no conversion could be learned: on 80 held-out items"):
        learn(noise, catalogue, ROWS, seed)


def test_a_shuffled_pairing_is_refused(tastes, catalogue):
    shuffled = np.random.default_rng(3).permutation(source_of(tastes, 48))
    with pytest.raises(UntrainedConversionError):
        learn(shuffled, catalogue, ROWS)


def test_short_vectors_are_projected_and_never_padded(catalogue):
    """The first coordinates of the run itself: padding would leave zeros, the projection fills in what follows."""
    cut = catalogue[:N_SHARED, :20]
    conversion, kept = learn(cut, catalogue, ROWS)
    rest = conversion.apply(cut)[:, 20:]
    assert (rest * catalogue[:N_SHARED, 20:]).sum() / (
        np.linalg.norm(rest) * np.linalg.norm(catalogue[:400, 20:])
    ) > 0.7
    directions = unit_rows(catalogue[:, 2:])
    padded = unit_rows(np.pad(cut[:, 2:], ((0, 0), (0, 748))))
    by_padding = overlap(nearest(padded, directions, ROWS), nearest(directions[ROWS], directions, ROWS))
    assert kept.recall.mean > 1.2 * by_padding.mean()


def test_too_few_shared_items_are_refused(tastes, catalogue):
    with pytest.raises(NotEnoughDataError, match="199 shared items are too few"):
        learn(source_of(tastes, 48)[:199], catalogue, ROWS[:199])


def test_vectors_that_are_none_are_refused(tastes, catalogue):
    source = source_of(tastes, 48)
    for value in (0.0, np.nan, np.inf):
        broken = source.copy()
        broken[5] = value
        with pytest.raises(ContractError, match="not finite, or only zeros"):
            learn(broken, catalogue, ROWS)
    with pytest.raises(ContractError, match="768"):
        learn(source, catalogue[:, :64], ROWS)
    with pytest.raises(ContractError, match="one row of its own"):
        learn(source, catalogue, np.zeros(N_SHARED, dtype=np.int64))


def test_the_nearest_are_those_of_a_full_sort_without_the_item_itself():
    rng = np.random.default_rng(4)
    directions, queries = (unit_rows(rng.normal(size=(60, 766))) for _ in range(2))
    rows = rng.permutation(60)
    scores = queries @ directions.T
    scores[np.arange(60), rows] = -9
    expected = [set(np.argsort(-line)[:20]) for line in scores]
    assert [set(line) for line in nearest(queries, directions, rows, batch=7)] == expected
    assert nearest(queries[:2], directions[:5], np.array([0, 1])).shape == (2, 4)
    assert overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 9]])).tolist() == [1.0, 0.5]
