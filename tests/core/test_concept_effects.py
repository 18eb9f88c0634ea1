"""Scores are counts that anybody can count; chance is neither hidden nor found where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_cam.core.concept_effects import Effects, corrected_p_values, net_intervals, scores, smoothed_gain

N, K = 60, 4


@pytest.fixture()
def effects(rng):
    held = rng.random((N, K)) * (rng.random((N, K)) < 0.7)
    margin = rng.normal(size=N).astype(np.float32)
    margin[:5] = np.nan
    without = (margin[:, None] + rng.normal(size=(N, K))).astype(np.float32)
    without = np.where(held > 0, without, margin[:, None])
    blame = np.where((margin < 0)[:, None], rng.normal(size=(N, K)), 0)
    evidence = rng.normal(size=(N, K)) * (held > 0)
    predicted = rng.integers(0, 3, N).astype(np.int32)
    return Effects(held, evidence, blame, margin, without, predicted, np.repeat(predicted[:, None], K, 1))


def test_scores_are_counts(effects):
    wrong = [m < 0 for m in effects.margin]
    known = [bool(np.isfinite(m)) for m in effects.margin]
    total = sum(max(0, e) for e in effects.evidence.ravel())
    for k, score in enumerate(scores(effects)):
        after = effects.margin_without[:, k]
        assert score.repaired == sum(w and m > 0 for w, m in zip(wrong, after, strict=True))
        assert score.broken == sum(n and not w and m <= 0 for n, w, m in zip(known, wrong, after, strict=True))
        assert score.present == sum(h > 0 for h in effects.held[:, k]) / N
        assert score.share == pytest.approx(sum(max(0, e) for e in effects.evidence[:, k]) / total)
        parts = [-m * b for m, b in zip(effects.margin, effects.blame[:, k], strict=True) if m < 0]  # logit units
        assert score.blame == pytest.approx(sum(parts) / -sum(m for m in effects.margin if m < 0))
        speaks = [i for i in range(N) if known[i] and effects.held[i, k] > 0 and effects.evidence[i, k] > 0]
        rate = sum(wrong[i] for i in speaks) / len(speaks)
        assert score.lift == pytest.approx(rate / (sum(wrong) / sum(known)))
    assert sum(score.share for score in scores(effects)) == pytest.approx(1)


def test_an_error_that_is_nearly_right_has_no_more_blame_than_its_gap(effects):
    """Of parts in logit units, each smaller than all gaps together, none can be more than all of the blame."""
    effects.margin[5:] = -2.0
    effects.blame[5:] = np.random.default_rng(0).dirichlet(np.ones(K), N - 5)
    before = [score.blame for score in scores(effects)]
    assert sum(before) == pytest.approx(1)
    effects.margin[5], effects.blame[5] = -1e-6, [1e5, -1e5, 1, 0]  # a tenth of a logit for and against
    for score, was in zip(scores(effects), before, strict=True):
        assert score.blame == pytest.approx(was, abs=0.02)


def test_without_true_classes_there_are_shares_alone(effects):
    effects.margin[:] = np.nan
    effects.margin_without[:] = np.nan
    for score in scores(effects):
        assert (score.blame, score.lift, score.repaired, score.broken, score.gain) == (None,) * 5
        assert score.share > 0


def test_without_removal_there_is_blame_and_no_repair(effects):
    effects.predicted_without[:] = -1
    effects.margin_without[:] = np.nan
    assert not effects.removable
    for score in scores(effects):
        assert (score.repaired, score.broken, score.gain) == (None,) * 3
        assert score.blame is not None
        assert score.lift is not None


def test_the_smoothed_gain_follows_the_margin(effects):
    gain = smoothed_gain(effects)
    assert (gain[:5] == 0).all()
    higher = effects.margin_without[5:] > effects.margin[5:, None]
    assert ((gain[5:] > 0) == higher).all()
    assert (np.abs(gain) < 1).all()
    assert gain.sum(0) == pytest.approx([score.gain for score in scores(effects)])


def test_chance_is_called_chance_at_the_promised_rate():
    """Of 200 data sets without any effect, about a twentieth may show one at 5%, whatever the number of concepts."""
    found = 0
    for seed in range(200):
        gain = np.random.default_rng(seed).normal(size=(40, 30))
        found += corrected_p_values(gain, rounds=400, seed=seed).min() <= 0.05
    assert 2 <= found <= 20


def test_an_effect_is_found_among_many_concepts(rng):
    gain = rng.normal(size=(200, 50))
    gain[:, 7] += 0.5
    p = corrected_p_values(gain)
    assert p[7] < 0.01
    assert p.argmin() == 7
    assert corrected_p_values(np.zeros((5, 2))).tolist() == [1, 1]


def test_intervals_are_those_of_a_bootstrap_by_hand(effects, rng):
    known, wrong = effects.known, effects.wrong
    change = ((effects.margin_without > 0).astype(int) - (known & ~wrong)[:, None])[known]
    drawn = [change[rng.integers(0, len(change), len(change))].sum(0) for _ in range(4000)]
    expected = np.quantile(drawn, [0.025, 0.975], axis=0).T
    assert np.abs(net_intervals(effects) - expected).max() <= 1
