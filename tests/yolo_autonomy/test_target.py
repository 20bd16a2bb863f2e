"""One object is chosen, kept through short losses, and given up after long ones."""

import pytest
from yolo_autonomy.target import COASTING, LOST, SEARCHING, TRACKING, Candidate, Selector, TargetChoice

SIZE = (640, 480)
SECOND = 1_000_000_000


def item(x, y, class_id="3", score=0.8, track="", side=40.0) -> Candidate:
    return Candidate((x, y, side, side / 2), class_id, score, track)


CENTER, CORNER = item(330, 230, track="1"), item(40, 40, score=0.9, track="2", side=90.0)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"prefer": "center"}, CENTER),
        ({"prefer": "point", "point": (0.0, 0.0)}, CORNER),
        ({"prefer": "score"}, CORNER),
        ({"prefer": "largest"}, CORNER),
        ({"prefer": "score", "track_id": "1"}, CENTER),
        ({"classes": ("car",)}, CENTER),
        ({"classes": ("3",)}, CENTER),
        ({"classes": ("bus",)}, None),
        ({"min_score": 0.95}, None),
    ],
)
def test_the_choice_decides_which_object_becomes_the_target(choice, expected):
    selector = Selector(TargetChoice(**choice), {"3": "car"})
    assert selector.update(0, [CORNER, CENTER], SIZE) == expected
    assert selector.state == (TRACKING if expected else SEARCHING)


@pytest.mark.parametrize("track", ["7", ""])
def test_a_target_is_kept_though_another_becomes_the_better_one(track):
    selector = Selector()
    for k in range(20):
        moving = item(320 + 15 * k, 240, score=0.8 - 0.03 * k, track=track)
        better = item(320, 260, score=0.99, track="8" if track else "")
        found = selector.update(k * SECOND // 10, [moving, better] if k else [moving], SIZE)
        assert found == moving


def test_a_short_loss_is_sat_out_and_a_long_one_ends_in_another_target():
    selector = Selector(TargetChoice(keep_s=1.0))
    assert selector.update(0, [CENTER, CORNER], SIZE) == CENTER
    assert selector.update(SECOND // 2, [CORNER], SIZE) is None
    assert selector.state == COASTING
    assert selector.update(SECOND, [CENTER, CORNER], SIZE) == CENTER
    assert selector.update(2 * SECOND, [CORNER], SIZE) is None
    assert selector.update(2 * SECOND + 1, [CORNER], SIZE) == CORNER
    assert selector.state == TRACKING


def test_without_reacquire_a_lost_target_stays_lost_until_one_is_named():
    selector = Selector(TargetChoice(keep_s=0.1, reacquire=False))
    selector.update(0, [CENTER], SIZE)
    for k in range(1, 4):
        assert selector.update(k * SECOND, [CORNER], SIZE) is None
        assert selector.state == LOST
    assert selector.point_at(45, 45, 4 * SECOND, [CORNER, CENTER]) == CORNER
    assert selector.update(4 * SECOND, [CENTER, CORNER], SIZE) == CORNER


def test_a_pixel_names_the_smallest_box_that_holds_it():
    selector = Selector()
    inner = item(330, 230, side=10.0)
    assert selector.point_at(331, 231, 0, [CENTER, inner]) == inner
    assert selector.point_at(600, 400, 0, [CENTER, inner]) is None
    assert selector.target == inner


def test_without_ids_nothing_far_away_continues_a_target():
    selector = Selector(TargetChoice(gate=1.5))
    selector.update(0, [item(100, 100)], SIZE)
    assert selector.update(1, [item(161, 100)], SIZE) is None
    assert selector.update(2, [item(159, 100)], SIZE) is not None


def test_a_clock_that_is_set_back_begins_anew():
    selector = Selector()
    selector.update(100 * SECOND, [CENTER], SIZE)
    assert selector.update(1 * SECOND, [CORNER], SIZE) == CORNER


def test_another_choice_keeps_a_target_that_it_admits():
    selector = Selector()
    selector.update(0, [CENTER, CORNER], SIZE)
    selector.choose(TargetChoice(prefer="score"))
    assert selector.target == CENTER
    selector.choose(TargetChoice(classes=("bus",)))
    assert selector.target is None
    assert selector.state == SEARCHING


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"prefer": "best"}, "prefer is 'best'; it must be one of center, point, score, largest"),
        ({"min_score": 1.5}, "min_score is 1.5; it must lie in 0 to 1"),
        ({"keep_s": float("nan")}, "keep_s is nan"),
        ({"point": (0.5,)}, "two shares of the image"),
        ({"point": (0.5, 2.0)}, "two shares of the image"),
    ],
)
def test_a_choice_that_means_nothing_is_refused_with_what_is_accepted(wrong, text):
    with pytest.raises(ValueError, match=text):
        TargetChoice(**wrong)
