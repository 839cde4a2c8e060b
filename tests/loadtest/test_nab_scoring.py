"""NAB's scoring against figures of NAB itself: those its own tests fix, and its published results of the baseline."""

import numpy as np
import pytest

from loadtest import quality_nab
from loadtest.quality_anomalies import corpus
from loadtest.quality_nab import Labelled, first_scored, row_worths, scored, windowed_gaussian, worth

# Score of NAB's file results/windowedGaussian/windowedGaussian_standard_scores.csv at threshold 1, for each series.
PUBLISHED = {
    "realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv": -1.26667875935,
    "realAWSCloudwatch/ec2_disk_write_bytes_1ef3de.csv": -4.19089678552,
    "realAWSCloudwatch/ec2_network_in_257a54.csv": 0.86067182427,
    "realAWSCloudwatch/ec2_network_in_5abac7.csv": -3.52193223519,
    "realAdExchange/exchange-3_cpc_results.csv": 2.50266326119,
    "realAdExchange/exchange-4_cpm_results.csv": 1.27471036268,
    "realKnownCause/machine_temperature_system_failure.csv": -4.0,
    "realKnownCause/rogue_agent_key_hold.csv": -2.44,
    "realTraffic/speed_7578.csv": 3.47059145681,
    "realTraffic/speed_t4013.csv": 1.76631783122,
    "realTweets/Twitter_volume_AMZN.csv": 1.55848299457,
    "realTweets/Twitter_volume_PFE.csv": 0.26557999349,
    "realTweets/Twitter_volume_UPS.csv": -2.2051646682,
}


def at(rows: int, *places: int) -> np.ndarray:
    scores = np.zeros(rows)
    scores[list(places)] = 1.0
    return scores


@pytest.fixture
def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NAB's own tests: no probation, and a false positive weighs as much as a found window."""
    monkeypatch.setattr(quality_nab, "PROBATION", 0.0)
    monkeypatch.setattr(quality_nab, "FALSE_POSITIVE", 1.0)


def raw(labelled: Labelled, scores: np.ndarray) -> float:
    """The score before it is normalised."""
    total = len(labelled.windows)
    return scored([(labelled, scores)], at=0.5).score / 100 * (2 * total or 1) - total


def test_worth_has_the_published_values() -> None:
    assert worth(-1.0) == pytest.approx(0.98661, abs=1e-5)
    assert worth(-0.5) == pytest.approx(0.84828, abs=1e-5)
    assert worth(0.0) == 0.0
    assert worth(1.0) == pytest.approx(-0.98661, abs=1e-5)
    assert worth(3.1) == -1.0


@pytest.mark.usefixtures("unscaled")
def test_the_example_of_naps_own_test_of_all_metrics() -> None:
    labelled = Labelled(100, ((30, 34), (65, 69)))
    assert raw(labelled, at(100, 30, 31, 37)) == pytest.approx(-0.9540, abs=5e-5)


@pytest.mark.usefixtures("unscaled")
def test_a_windows_first_row_is_worth_all_and_its_edges_cancel_out() -> None:
    assert raw(Labelled(10, ((4, 5),)), at(10, 4)) == pytest.approx(1.0)
    wide = Labelled(1_000, ((450, 549),))
    assert raw(wide, at(1_000, 549)) + raw(wide, at(1_000, 550)) + 1 == pytest.approx(0.0, abs=5e-3)
    assert raw(wide, at(1_000, 460)) > raw(wide, at(1_000, 500))
    assert raw(wide, at(1_000, 460, 500)) == raw(wide, at(1_000, 460))
    assert raw(wide, at(1_000, 460, 3)) == pytest.approx(raw(wide, at(1_000, 460)) - 1)


def test_null_and_perfect_detectors_are_0_and_100() -> None:
    series = [(Labelled(1_000, ((400, 499), (700, 799))), at(1_000, 400, 700)), (Labelled(500, ()), np.zeros(500))]
    assert scored(series).score == pytest.approx(100.0)
    assert scored([(labelled, np.zeros(labelled.rows)) for labelled, _ in series], at=0.5).score == 0.0


def test_probation_is_a_share_of_at_most_750_rows() -> None:
    assert [first_scored(rows) for rows in (1_127, 4_032, 22_695)] == [169, 604, 750]
    early = Labelled(1_000, ((400, 499),))
    assert scored([(early, at(1_000, 10, 400))]).score == pytest.approx(100.0)


def test_the_best_threshold_lies_between_scores() -> None:
    labelled = Labelled(1_000, ((400, 499),))
    scores = at(1_000, 400) * 0.7 + at(1_000, 600, 700, 900) * 0.6
    best = scored([(labelled, scores)])
    assert (best.threshold, best.found, best.false_positives) == (0.7, 1, 0)
    tied = scored([(labelled, at(1_000, 400, 900))])
    assert tied.false_positives == 1


def test_the_baseline_scores_what_nab_published() -> None:
    for series in corpus():
        if series.name in PUBLISHED:
            worths, inside = row_worths(series.labelled)
            found = windowed_gaussian(series.values) >= 1.0
            found[: first_scored(series.labelled.rows)] = False
            score = worths[found & (inside < 0)].sum()
            for window in range(len(series.labelled.windows)):
                score += max(worths[found & (inside == window)], default=-1.0)
            assert score == pytest.approx(PUBLISHED[series.name], abs=1e-6), series.name
