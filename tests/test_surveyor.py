"""A survey beside the work: a slice a turn while the loop is at rest, a bounded share of the delay once it is late."""

from __future__ import annotations

import pytest

from engine.core.survey import Survey
from engine.shell.surveyor import TURN_S_MAX, look, turn_s
from tests.test_kernels import SEED, World
from tests.test_survey import report_of, shard_of


@pytest.mark.parametrize(
    ("late_s", "seconds"),
    [
        (-0.001, -0.00002),
        (0.0, 0.0),
        # A batch of 50 ms: a fiftieth of it.
        (0.05, 0.001),
        (0.1, 0.002),
        # However long others took, whoever comes next does not wait for more.
        (60.0, TURN_S_MAX),
    ],
)
def test_a_turn_that_comes_late_is_longer_and_bounded(late_s: float, seconds: float) -> None:
    assert turn_s(late_s=late_s) == pytest.approx(seconds)


def test_a_turn_without_time_is_one_slice_and_one_with_time_ends_with_its_round() -> None:
    world = World(f"{SEED} surveyor")
    expected = report_of(Survey(shard_of(world)), 50)
    slices, survey = 1, Survey(shard_of(world))
    while (report := look(survey, 0.0)) is None:
        slices += 1
    assert report == expected
    assert slices > 3
    # A minute is more than a small book needs; the next round waits for its time.
    survey = Survey(shard_of(world))
    assert look(survey, 60.0) == expected
    assert look(survey, 0.0) is None
