"""The shallow fits, each against an independent computation."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.shallow import MedaWeights, fit_coral, fit_jgsa, fit_meda
from trainer.shallow.axes import fix_signs, principal_axes
from trainer.shallow.discrepancy import mean_differences, nearest_labels
from trainer.shallow.gfk import flow_kernel, subspace_dimension
from trainer.shallow.jgsa import jgsa_matrices
from trainer.shallow.meda import alignment_weight, graph_laplacian, rbf_kernel
from trainer.shallow.standardisation import Standardisation, evenly_spaced, unit_rows

CLASSES, WIDTH = 3, 6


def gaussian(n: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def labelled(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CLASSES, n)


def class_samples(rng, n: int, width: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    corners = np.zeros((CLASSES, width))
    corners[:, :2] = [[0, 2], [1.8, -1], [-1.8, -1]]
    labels = np.arange(n) % CLASSES
    return corners[labels] + noise * rng.normal(size=(n, width)), labels


def stretched_domains():
    """Three classes; the target's axes have other scales and another origin."""
    rng = np.random.default_rng(3)
    source, y = class_samples(rng, 180, WIDTH, noise=0.35)
    target, truth = class_samples(rng, 120, WIDTH, noise=0.35)
    return source, y, target * [4, 0.2, 1, 3, 1, 1] + 3, truth


def turned_domains():
    """Three classes in a plane that is turned by 75 degrees in the target, under much noise."""
    rng, width = np.random.default_rng(3), 40
    source, y = class_samples(rng, 180, width, noise=0.6)
    target, truth = class_samples(rng, 120, width, noise=0.6)
    turn = np.eye(width)
    for i in (0, 1):
        turn[np.ix_([i, i + 2], [i, i + 2])] = [
            [np.cos(1.3), -np.sin(1.3)],
            [np.sin(1.3), np.cos(1.3)],
        ]
    return source, y, target @ turn + 0.5, truth


# Building blocks


def test_principal_axes_are_eigenvectors_of_the_covariance_with_fixed_signs():
    x = gaussian(40)
    axes = principal_axes(x)
    covariance = np.cov(x.T)
    values = np.diag(axes.T @ covariance @ axes)
    np.testing.assert_allclose(covariance @ axes, axes * values, atol=1e-10)
    np.testing.assert_allclose(axes.T @ axes, np.eye(WIDTH), atol=1e-12)
    assert (np.diff(values) < 0).all()
    for column in axes.T:
        assert column[np.abs(column).argmax()] > 0
    np.testing.assert_array_equal(fix_signs(-axes), axes)


def test_principal_axes_stop_at_the_rank():
    assert principal_axes(gaussian(4)).shape == (WIDTH, 3)
    assert principal_axes(np.full((5, WIDTH), 7.3)).shape == (WIDTH, 0)
    assert principal_axes(np.ones((1, WIDTH))).shape == (WIDTH, 0)


@pytest.mark.parametrize(("kind", "mean", "scale"), [("none", 5, 3), ("center", 0, 3)])
def test_standardisation_keeps_what_it_says(kind, mean, scale):
    x = np.random.default_rng(1).normal(5, 3, (4000, 2))
    y = Standardisation.of(x, kind).apply(x)
    np.testing.assert_allclose(y.mean(0), mean, atol=0.2)
    np.testing.assert_allclose(y.std(0), scale, atol=0.2)


def test_zscores_have_unit_variance_and_constant_features_become_zero():
    x = gaussian(30)
    x[:, 2] = 0.1  # its computed spread is not exactly 0
    y = Standardisation.of(x, "zscore").apply(x)
    np.testing.assert_allclose(y.std(0), [1, 1, 0, 1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-12)


def test_evenly_spaced_indices():
    assert evenly_spaced(5, None).tolist() == evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]


def slow_mmd(y_s: np.ndarray, y_t: np.ndarray, weights: list[float]) -> np.ndarray:
    """``Σ_c weights[c] M_c`` entry by entry, c = 0 for the domains and 1 + class."""
    n, m = len(y_s), len(y_t)
    total = np.zeros((n + m, n + m))
    labels, domain = [*y_s, *y_t], [0] * n + [1] * m
    for c, weight in enumerate(weights):
        inside = [c == 0 or label == c - 1 for label in labels]
        size = [
            sum(i and d == side for i, d in zip(inside, domain, strict=True)) for side in (0, 1)
        ]
        for i in range(n + m):
            for j in range(n + m):
                if inside[i] and inside[j] and min(size) > 0:
                    sign = 1 if domain[i] == domain[j] else -1
                    total[i, j] += weight * sign / (size[domain[i]] * size[domain[j]])
    return total


def test_mean_differences_factor_the_mmd_matrices():
    y_s, y_t = np.array([0, 1, 1, 2, 0]), np.array([1, 1, 0])  # class 2 is absent in the target
    delta = mean_differences(y_s, y_t, num_classes=CLASSES)
    for c in range(1 + CLASSES):
        weights = [float(c == i) for i in range(1 + CLASSES)]
        expected = slow_mmd(y_s, y_t, weights)
        np.testing.assert_allclose(np.outer(delta[:, c], delta[:, c]), expected, atol=1e-15)
    assert not delta[:, 3].any()


def test_nearest_labels():
    points, queries = gaussian(20), gaussian(9, seed=1)
    labels = labelled(20)
    expected = [
        labels[min(range(20), key=lambda i: np.linalg.norm(points[i] - q))] for q in queries
    ]
    assert nearest_labels(points, labels, queries).tolist() == expected


# CORAL


def test_coral_gives_the_source_the_covariance_of_the_target():
    source, target = gaussian(50), gaussian(40, seed=1)
    aligned = source @ fit_coral(source, target, regularisation=0)
    np.testing.assert_allclose(np.cov(aligned.T), np.cov(target.T), rtol=1e-9, atol=1e-9)


def test_coral_aligns_the_regularised_covariances():
    source, target = gaussian(4), gaussian(40, seed=1)
    a = fit_coral(source, target, regularisation=1.0)
    expected = np.cov(target.T) + np.eye(WIDTH)
    np.testing.assert_allclose(a.T @ (np.cov(source.T) + np.eye(WIDTH)) @ a, expected, rtol=1e-9)


def test_coral_without_regularisation_survives_a_singular_source():
    a = fit_coral(gaussian(3), gaussian(40, seed=1), regularisation=0)
    assert np.isfinite(a).all()
    assert np.linalg.matrix_rank(a) == 2


# GFK


def geodesic(p_s: np.ndarray, p_t: np.ndarray, t: float) -> np.ndarray:
    """Basis of the subspace at t by the matrix exponential of the textbook tangent vector."""
    overlap = p_s.T @ p_t
    u, tangent, vt = np.linalg.svd((p_t - p_s @ overlap) @ np.linalg.inv(overlap), False)
    angles = np.arctan(tangent)
    return p_s @ vt.T @ np.diag(np.cos(t * angles)) + u @ np.diag(np.sin(t * angles))


@pytest.mark.parametrize("d", [1, 2, 3, 5])  # 5: the subspaces share directions, θ = 0
def test_flow_kernel_equals_numerical_integration(d):
    p_s, p_t = principal_axes(gaussian(40))[:, :d], principal_axes(gaussian(30, seed=1))[:, :d]
    kernel, root = flow_kernel(p_s, p_t)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    expected = np.zeros((WIDTH, WIDTH))
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        basis = geodesic(p_s, p_t, t)
        expected += w * basis @ basis.T
    np.testing.assert_allclose(kernel, expected, atol=1e-10)
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    np.testing.assert_allclose(root @ root, kernel, atol=1e-7)
    assert np.linalg.eigvalsh(root).min() > -1e-7


def test_flow_kernel_does_not_depend_on_the_bases():
    p_s, p_t = principal_axes(gaussian(40))[:, :3], principal_axes(gaussian(30, seed=1))[:, :3]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(flow_kernel(p_s @ turn, -p_t), flow_kernel(p_s, p_t), atol=1e-10)


def test_flow_kernel_of_equal_subspaces_is_the_projection():
    p = principal_axes(gaussian(40))[:, :2]
    for matrix in flow_kernel(p, p):
        np.testing.assert_allclose(matrix, p @ p.T, atol=1e-7)


def test_flow_kernel_of_orthogonal_subspaces():
    eye = np.eye(4)
    kernel, root = flow_kernel(eye[:, :2], eye[:, 2:])
    across = np.abs(kernel[:2, 2:])  # the geodesic between orthogonal subspaces is not unique
    np.testing.assert_allclose(np.diag(kernel), 0.5)
    np.testing.assert_allclose(np.sort(across, axis=None), [0, 0, 1 / np.pi, 1 / np.pi], atol=1e-9)
    np.testing.assert_allclose(root @ root, kernel, atol=1e-12)


def test_subspace_dimension_follows_the_disagreement_measure():
    """Both domains vary along e0; e1 is the source's second axis, e2 the target's."""
    rng = np.random.default_rng(0)
    source, target = (rng.normal(size=(500, WIDTH)) * 1e-3 for _ in range(2))
    shared = 10 * rng.normal(size=(2, 500))
    source[:, 0], target[:, 0] = shared
    source[:, 1], target[:, 2] = 3 * rng.normal(size=(2, 500))
    axes = [principal_axes(x) for x in (source, target, np.concatenate([source, target]))]
    measure = [
        sum(
            np.sin(np.arccos(min(1, np.linalg.svd(a[:, :d].T @ axes[2][:, :d])[1].min()))) / 2
            for a in axes[:2]
        )
        for d in range(1, 4)
    ]
    expected = 1 + next((i for i, v in enumerate(measure) if v >= 0.99), int(np.argmax(measure)))
    assert subspace_dimension(source, target) == expected
    assert measure[0] < 0.1  # the shared direction agrees
    assert expected > 1


# JGSA


def jgsa_data():
    return gaussian(40), labelled(40), gaussian(30, seed=1), labelled(30, seed=1)


def test_jgsa_matrices_equal_plain_loops():
    x, y, z, pseudo = jgsa_data()
    p, q = jgsa_matrices(x, y, z, pseudo, num_classes=CLASSES, beta=0.3, mu=0.7, lam=2.0)
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, WIDTH, 2))
    w = np.concatenate([a, b])
    u, v = x @ a, z @ b
    between = sum(
        (y == c).sum() * np.sum((u[y == c].mean(0) - u.mean(0)) ** 2) for c in range(CLASSES)
    )
    within = sum(np.sum((u[y == c] - u[y == c].mean(0)) ** 2) for c in range(CLASSES))
    variance = np.sum((v - v.mean(0)) ** 2)
    shift = np.sum((u.mean(0) - v.mean(0)) ** 2) + sum(
        np.sum((u[y == c].mean(0) - v[pseudo == c].mean(0)) ** 2) for c in range(CLASSES)
    )
    above = 0.3 * between + 0.7 * variance
    below = shift + 2.0 * np.sum((a - b) ** 2) + 0.3 * within + 0.7 * np.sum(b**2)
    assert np.trace(w.T @ p @ w) == pytest.approx(above, rel=1e-10)
    assert np.trace(w.T @ q @ w) == pytest.approx(below, rel=1e-10)


def test_jgsa_solves_its_generalised_eigenproblem():
    x, y, z, _ = jgsa_data()
    fit = fit_jgsa(x, y, z, num_classes=CLASSES, dimension=4)
    w = np.concatenate([fit.source_map, fit.target_map])
    p, q = jgsa_matrices(x, y, z, fit.pseudo_labels, num_classes=CLASSES, beta=0.1, mu=1.0, lam=1.0)
    values = np.diag(w.T @ p @ w)
    np.testing.assert_allclose(p @ w, q @ w * values, atol=1e-8 * np.abs(p).max())
    np.testing.assert_allclose(w.T @ q @ w, np.eye(4), atol=1e-9)
    everything = np.sort(np.linalg.eigvals(np.linalg.solve(q, p)).real)[::-1]
    np.testing.assert_allclose(values, everything[:4], rtol=1e-8)


def test_jgsa_reduces_the_class_discrepancy():
    source, y, target, truth = turned_domains()
    source, target = source - source.mean(0), target - target.mean(0)
    fit = fit_jgsa(source, y, target, num_classes=CLASSES, dimension=2, beta=0.01)

    def shift(u, v):
        means = [np.sum((u[y == c].mean(0) - v[truth == c].mean(0)) ** 2) for c in range(CLASSES)]
        return np.mean(means) / np.sum(u.var(0) + v.var(0))

    assert shift(source @ fit.source_map, target @ fit.target_map) < 0.1 * shift(source, target)


# MEDA


def meda_data():
    return unit_rows(gaussian(24)), labelled(24), unit_rows(gaussian(18, seed=1))


@pytest.mark.parametrize("mmd", ["frobenius", "printed"])
@pytest.mark.parametrize("laplacian", ["normalised", "plain"])
def test_meda_solves_its_linear_system(mmd, laplacian):
    x, y, z = meda_data()
    weights = MedaWeights(
        eta=0.2, lam=3, rho=0.5, neighbors=4, mu=0.3, mmd=mmd, laplacian=laplacian, iterations=3
    )
    fit = fit_meda(x, y, z, num_classes=CLASSES, weights=weights)
    points = np.concatenate([x, z])
    kernel = rbf_kernel(points, points, variance=fit.variance)
    m = slow_mmd(y, fit.pseudo_labels, [0.7, 0.3, 0.3, 0.3])
    m = m / np.linalg.norm(m) if mmd == "frobenius" else m
    a = np.diag([1.0] * len(x) + [0.0] * len(z))
    labels = np.zeros((len(points), CLASSES))
    for i, c in enumerate(y):
        labels[i, c] = 1
    laplace = graph_laplacian(points, neighbors=4, kind=laplacian)
    system = (a + 3 * m + 0.5 * laplace) @ kernel + 0.2 * np.eye(len(points))
    expected = np.linalg.solve(system, a @ labels)
    np.testing.assert_allclose(fit.coefficients, expected, rtol=1e-7, atol=1e-9)


def test_meda_kernel_width_is_the_variance():
    x, y, z = meda_data()
    fit = fit_meda(x, y, z, num_classes=CLASSES, weights=MedaWeights(mu=0.5))
    points = np.concatenate([x, z])
    assert fit.variance == pytest.approx(np.trace(np.cov(points.T, bias=True)))
    kernel = rbf_kernel(x, z, variance=fit.variance)
    for i, j in ((0, 0), (3, 5), (23, 17)):
        distance = np.linalg.norm(x[i] - z[j])
        assert kernel[i, j] == pytest.approx(np.exp(-(distance**2) / (2 * fit.variance)))


def test_graph_laplacian_equals_plain_loops():
    points, k = unit_rows(gaussian(15)), 3
    weights = np.zeros((15, 15))
    for i in range(15):
        others = sorted((j for j in range(15) if j != i), key=lambda j: -points[i] @ points[j])
        for j in others[:k]:
            weights[i, j] = weights[j, i] = max(0.0, float(points[i] @ points[j]))
    degree = weights.sum(1)
    f = np.random.default_rng(0).normal(size=15)
    plain = graph_laplacian(points, neighbors=k, kind="plain")
    smoothness = sum(weights[i, j] * (f[i] - f[j]) ** 2 / 2 for i in range(15) for j in range(15))
    assert f @ plain @ f == pytest.approx(smoothness, rel=1e-10)
    scaled = f / np.sqrt(degree)
    normalised = graph_laplacian(points, neighbors=k)
    assert f @ normalised @ f == pytest.approx(scaled @ plain @ scaled, rel=1e-10)


def test_alignment_weight_sees_where_the_divergence_is():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    same = rng.normal(size=(120, 2)) + np.where(y[:, None] == 0, 5, -5)
    other = rng.normal(size=(120, 2)) + np.where(y[:, None] == 0, 5, -5)
    swapped = alignment_weight(same, y, other, 1 - y)  # equal marginals, exchanged classes
    assert swapped > 0.8
    shifted = alignment_weight(same, y, other + np.array([0, 40]), y)  # all divergences are 2
    assert shifted == pytest.approx(2 / 3)
    assert alignment_weight(same[:1], y[:1], other[:1], y[:1]) == 0.5
