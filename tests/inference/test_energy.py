"""Energy and KL divergence, summed pair by pair as equations 1 and 7 say."""

import numpy as np
import pytest

from crfrnn import GridGaussian, PairwiseTerm, energy, kl_divergence, mean_field, reference, relaxed_energy
from errors import raises_saying

SHAPE = (4, 5)
N = 20


def term_matrix(term):
    """The normalised filter as an N×N matrix."""
    return term.filter(np.eye(N))


@pytest.fixture
def model(rng):
    terms = [
        PairwiseTerm(GridGaussian(SHAPE, 1.5, dtype=np.float64), 0.7, "none"),
        PairwiseTerm(reference.DenseGaussian(rng.normal(size=(N, 3))), rng.random(3), "symmetric"),
    ]
    return rng.normal(size=(3, *SHAPE)), terms


@pytest.mark.parametrize("compatibility", [None, "vector", "matrix"])
def test_energy_pair_by_pair(rng, model, compatibility):
    unary, terms = model
    if compatibility:
        compatibility = rng.normal(size=(3,) if compatibility == "vector" else (3, 3))
        compatibility = compatibility if compatibility.ndim == 1 else compatibility + compatibility.T
    M = reference.as_matrix(-1.0 if compatibility is None else compatibility, 3)
    labels = rng.integers(0, 3, SHAPE)
    x, U = labels.ravel(), unary.reshape(3, -1)
    expected = -sum(U[x[i], i] for i in range(N))
    for term in terms:
        K, E = term_matrix(term), M @ reference.as_matrix(term.weight, 3)
        for i in range(N):
            for j in range(i):
                # A filter sends both ways; weights or normalisations may make the two directions differ.
                expected += 0.5 * (E[x[i], x[j]] * K[i, j] + E[x[j], x[i]] * K[j, i])
    assert energy(labels, unary, terms, compatibility=compatibility) == pytest.approx(expected, rel=1e-6)


def test_energy_agrees_with_enumerated_probabilities(rng):
    """Differences of energies are log ratios of probabilities: two labellings of two pixels, by hand."""
    kernel = reference.DenseGaussian(np.array([[0.0], [1.0]]))
    terms = [PairwiseTerm(kernel, 0.9, "none")]
    unary = rng.normal(size=(2, 2))
    agree, differ = (energy(np.array(labels), unary, terms) for labels in ([0, 0], [0, 1]))
    assert agree - differ == pytest.approx(unary[1, 1] - unary[0, 1] - 0.9 * np.exp(-0.5))


def test_kl_divergence_pair_by_pair(rng, model):
    unary, terms = model
    q = rng.dirichlet(np.ones(3), size=N).T
    U = unary.reshape(3, -1)
    expected = (q * np.log(q)).sum() - (U * q).sum()
    for term in terms:
        K, E = term_matrix(term), -reference.as_matrix(term.weight, 3)
        expected += np.einsum("ci,cd,ij,dj->", q, E, K, q)
    assert kl_divergence(q.reshape(unary.shape), unary, terms) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [kl_divergence, relaxed_energy])
def test_logits_are_no_marginals(model, measure):
    unary, terms = model
    with raises_saying(ValueError, "marginals are from", "expected probabilities, 0 to 1"):
        measure(unary, unary, terms)


def test_certain_marginals_have_no_entropy(model):
    unary, terms = model
    certain = np.zeros_like(unary)
    certain[1] = 1
    assert np.isfinite(kl_divergence(certain, unary, terms))


def test_mean_field_lowers_the_energy_of_a_noisy_image(rng):
    clean = (np.arange(20)[:, None] > np.arange(20)).astype(int)
    unary = np.where(np.arange(2)[:, None, None] == clean, 1.0, 0.0) + rng.normal(size=(2, 20, 20))
    terms = [PairwiseTerm(GridGaussian((20, 20), 1.5, dtype=np.float64), 0.3, "none")]
    refined = mean_field(unary, terms, iterations=10).argmax(axis=0)
    assert energy(refined, unary, terms) < energy(unary.argmax(axis=0), unary, terms)
    assert (refined != clean).mean() < 0.5 * (unary.argmax(axis=0) != clean).mean()
