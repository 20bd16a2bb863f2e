"""Where frames are, by what was broadcast."""

import math

import cv2
import numpy as np
import pytest
from yolo_trt_node.node.transforms import KEEP_NS, NotYetError, TransformBuffer, TransformError

S = 1_000_000_000


def quaternion(vector) -> tuple[float, float, float, float]:
    """Of a rotation vector (axis times angle in radians)."""
    angle = float(np.linalg.norm(vector))
    axis = np.array(vector) / angle if angle else np.zeros(3)
    x, y, z = (axis * math.sin(angle / 2)).tolist()
    return x, y, z, math.cos(angle / 2)


def matrix(position, vector) -> np.ndarray:
    whole = np.eye(4)
    whole[:3, :3] = cv2.Rodrigues(np.array(vector, np.float64))[0]
    whole[:3, 3] = position
    return whole


def as_matrix(pose) -> np.ndarray:
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = pose.rotation, pose.position
    return whole


def tell(buffer, parent, child, stamp_s, position=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0), static=False):
    buffer.add(parent, child, round(stamp_s * S), position, quaternion(turn), static=static)


def test_poses_along_a_tree_multiply_up_and_down():
    """map - odom - base - gimbal - camera, and map - mast - light, some static; against 4 x 4 matrices."""
    rng = np.random.default_rng(2)
    buffer = TransformBuffer()
    tree = {
        "odom": ("map", False),
        "base": ("odom", False),
        "gimbal": ("base", False),
        "camera": ("gimbal", True),
        "mast": ("map", True),
        "light": ("mast", True),
    }
    in_map = {"map": np.eye(4)}
    for child, (parent, static) in tree.items():
        position, turn = rng.normal(0, 20, 3), rng.normal(0, 1.2, 3)
        tell(buffer, parent, child, 5.0, tuple(position), tuple(turn), static)
        in_map[child] = in_map[parent] @ matrix(position, turn)
    for target in in_map:
        for source in in_map:
            found = as_matrix(buffer.lookup(target, source, 5 * S))
            np.testing.assert_allclose(found, np.linalg.inv(in_map[target]) @ in_map[source], atol=1e-9)


def test_between_two_broadcasts_it_moves_and_turns_steadily():
    buffer = TransformBuffer()
    tell(buffer, "map", "base", 10.0, (0.0, 0.0, 50.0), (0.0, 0.0, 3.0))
    tell(buffer, "map", "base", 12.0, (8.0, 4.0, 50.0), (0.0, 0.0, -3.0))  # 0.28 rad further, not 6 back
    pose = buffer.lookup("map", "base", round(10.5 * S))
    expected = matrix((2.0, 1.0, 50.0), (0, 0, 3.0 + 0.25 * (2 * math.pi - 6.0)))
    np.testing.assert_allclose(as_matrix(pose), expected, atol=1e-9)


def test_messages_out_of_order_are_sorted():
    buffer = TransformBuffer()
    for stamp in (1.0, 1.2, 1.1, 1.3, 1.2):
        tell(buffer, "map", "base", stamp, (stamp, 0.0, 0.0))
    for stamp in (1.05, 1.15, 1.25):
        assert buffer.lookup("map", "base", round(stamp * S)).position[0] == pytest.approx(stamp)


def test_the_future_is_not_guessed_and_may_come():
    buffer = TransformBuffer()
    tell(buffer, "map", "base", 1.0)
    with pytest.raises(NotYetError, match=r"'base' to 'map' is known only until 0\.250 s before the image"):
        buffer.lookup("map", "base", round(1.25 * S))
    tell(buffer, "map", "base", 1.3, (3.0, 0.0, 0.0))
    assert buffer.lookup("map", "base", round(1.3 * S)).position[0] == 3.0


def test_what_was_forgotten_is_said_and_not_waited_for():
    buffer = TransformBuffer()
    for stamp in range(0, 30):
        tell(buffer, "map", "base", float(stamp))
    with pytest.raises(
        TransformError, match=r"known only from 9\.000 s after the image's stamp on"
    ) as raised:
        buffer.lookup("map", "base", 10 * S)
    assert not isinstance(raised.value, NotYetError)
    buffer.lookup("map", "base", 29 * S - KEEP_NS)


def test_static_ones_hold_for_ever_and_the_newest_counts():
    buffer = TransformBuffer()
    tell(buffer, "base", "camera", 100.0, (1.0, 0.0, 0.0), static=True)
    tell(buffer, "base", "camera", 100.0, (2.0, 0.0, 0.0), static=True)
    for stamp in (0, 50 * S, 10**6 * S):
        assert buffer.lookup("base", "camera", stamp).position[0] == 2.0


def test_a_clock_set_back_starts_anew():
    buffer = TransformBuffer()
    tell(buffer, "map", "base", 100.0, (9.0, 0.0, 0.0))
    tell(buffer, "map", "base", 105.0, (9.0, 0.0, 0.0))
    tell(buffer, "map", "base", 20.0, (1.0, 0.0, 0.0))
    tell(buffer, "map", "base", 21.0, (1.0, 0.0, 0.0))
    assert buffer.lookup("map", "base", round(20.5 * S)).position[0] == 1.0
    with pytest.raises(NotYetError):
        buffer.lookup("map", "base", 100 * S)


def test_a_frame_that_gets_another_parent_follows_it():
    buffer = TransformBuffer()
    tell(buffer, "map", "base", 1.0, (1.0, 0.0, 0.0))
    tell(buffer, "odom", "base", 1.0, (5.0, 0.0, 0.0))
    assert buffer.lookup("odom", "base", S).position[0] == 5.0
    with pytest.raises(NotYetError, match="nobody broadcasts 'map'"):
        buffer.lookup("map", "base", S)


class TestWhatIsMissing:
    def test_nothing_at_all(self):
        with pytest.raises(NotYetError, match="'camera' to 'map': nothing was received on /tf or /tf_static"):
            TransformBuffer().lookup("map", "camera", S)

    def test_a_frame_that_nobody_knows(self):
        buffer = TransformBuffer()
        tell(buffer, "odom", "base_link", 1.0)
        with pytest.raises(NotYetError, match=r"nobody broadcasts 'camera' or 'map'.*are base_link, odom$"):
            buffer.lookup("map", "camera", S)

    def test_two_trees(self):
        buffer = TransformBuffer()
        tell(buffer, "odom", "base", 1.0)
        tell(buffer, "gimbal", "camera", 1.0, static=True)
        with pytest.raises(NotYetError, match=r"above 'camera' stands 'gimbal', above 'odom' stands 'odom'"):
            buffer.lookup("odom", "camera", S)


def test_a_loop_ends():
    buffer = TransformBuffer()
    tell(buffer, "a", "b", 1.0)
    tell(buffer, "b", "a", 1.0)
    with pytest.raises(NotYetError):
        buffer.lookup("map", "a", S)


@pytest.mark.parametrize(
    ("position", "turn"),
    [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)), ((math.nan, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))],
)
def test_what_is_no_pose_is_ignored(position, turn):
    buffer = TransformBuffer()
    buffer.add("map", "base", S, position, turn, static=False)
    with pytest.raises(NotYetError, match="nothing was received"):
        buffer.lookup("map", "base", S)


def test_a_leading_slash_means_nothing():
    buffer = TransformBuffer()
    tell(buffer, "/map", "/base", 1.0, (4.0, 0.0, 0.0))
    assert buffer.lookup("map", "base", S).position[0] == 4.0
    assert buffer.lookup("/map", "/base", S).position[0] == 4.0


IDENTITY = (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("position", "quaternion", "told"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), "rotation (0, 0, 0, 0), which is none"),
        ((0.0, 0.0, 0.0), (float("nan"), 0.0, 0.0, 1.0), "rotation (nan, 0, 0, 1)"),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 5.0), "rotation (0, 0, 0, 5)"),
        ((float("inf"), 0.0, 0.0), IDENTITY, "translation (inf, 0, 0)"),
    ],
)
def test_a_broadcast_that_is_no_pose_is_named_and_not_blamed_on_time(position, quaternion, told):
    buffer = TransformBuffer()
    buffer.add("map", "camera", 10**9, position, quaternion, static=False)
    with pytest.raises(NotYetError) as error:
        buffer.lookup("map", "camera", 10**9)
    assert f"'camera' is broadcast with the {told}" in str(error.value)
    buffer.add("map", "camera", 10**9, (0.0, 0.0, 1.0), IDENTITY, static=False)
    buffer.add("map", "camera", 2 * 10**9, position, quaternion, static=False)
    with pytest.raises(NotYetError, match=r"which is none; .*is known only until"):
        buffer.lookup("map", "camera", 2 * 10**9)
    assert buffer.lookup("map", "camera", 10**9).position[2] == 1.0


@pytest.mark.parametrize("static", [True, False])
def test_very_many_frames_cost_bounded_memory_and_leave_ours_alone(static):
    buffer = TransformBuffer()
    buffer.add("map", "base", 0, (0.0, 0.0, 9.0), IDENTITY, static=True)
    for index in range(1500):
        buffer.add("map", f"frame{index}", index, (0.0, 0.0, 0.0), IDENTITY, static=static)
        buffer.add("base", "camera", index, (0.0, 0.0, 1.0), IDENTITY, static=False)
        buffer.add("map", f"bad{index}", 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), static=static)
    buffer.add("map", "x" * 1000, 0, (0.0, 0.0, 0.0), IDENTITY, static=static)
    assert len(buffer._links) <= 1002
    assert len(buffer._refused) <= 1000
    assert buffer.lookup("map", "camera", 1499).position[2] == 10.0


def test_very_many_poses_of_a_frame_cost_bounded_memory():
    buffer = TransformBuffer()
    for index in range(5000):
        buffer.add("map", "camera", index, (0.0, 0.0, float(index)), IDENTITY, static=False)
    assert len(buffer._links["camera"].stamps_ns) == 4000
    assert buffer.lookup("map", "camera", 4999).position[2] == 4999
