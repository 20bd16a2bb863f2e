"""A finding is said once, again when it changes, and then ever more rarely."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from yolo_trt_node.health.diagnosis import InputObservation, Publisher
from yolo_trt_node.health.statistics import TrafficWindow
from yolo_trt_node.node.health import Health
from yolo_trt_node.node.watchdog import Watchdog, _image_topics, conflict, describe, other_domains, rivals

SILENT = InputObservation(
    topic="/image",
    kind="sensor_msgs/msg/Image",
    qos="best effort, volatile",
    window=TrafficWindow(duration_s=5.0, silent_s=4.0),
    timeout_s=3.0,
    listening_s=60.0,
    now_s=1.0,
    other_nodes=1,
    image_topics={"/other": "sensor_msgs/msg/Image"},
)
MATCHED = replace(SILENT, publishers=(Publisher("/driver", "sensor_msgs/msg/Image", "reliable, volatile"),))
WELL = replace(
    MATCHED, window=TrafficWindow(duration_s=5.0, received=100, published=100, silent_s=0.1, stamp_s=1.0)
)


class TestSaying:
    def test_once_then_after_growing_times(self):
        dog, said = Watchdog(), []
        for second in range(200):
            line = dog.look(SILENT, float(second))
            if line is not None:
                assert line[1]
                said.append((second, line[0]))
        assert [second for second, _ in said] == [0, 10, 30, 70, 150]
        assert said[0][1].startswith("/image: nobody publishes the image topic. Images are on /other (Image)")
        # The silence had begun 4 s before it was found.
        assert said[1][1].endswith("(for 14 s now)")

    def test_again_when_the_cause_changes(self):
        dog = Watchdog()
        dog.look(SILENT, 0.0)
        assert dog.look(SILENT, 1.0) is None
        text, complaint = dog.look(MATCHED, 2.0)
        assert complaint
        assert "the publisher is alive, but silent" in text
        assert dog.diagnosis.cause.name == "SILENT"

    def test_not_again_because_a_number_in_it_has_changed(self):
        dog = Watchdog()
        lost = replace(MATCHED, window=replace(SILENT.window, lost=50))
        assert dog.look(lost, 0.0) is not None
        assert dog.look(replace(lost, window=replace(SILENT.window, lost=51)), 1.0) is None
        assert "51 were lost" in str(dog.diagnosis)

    def test_recovery_tells_how_long_it_took(self):
        dog = Watchdog()
        assert dog.look(WELL, 0.0) is None
        dog.look(SILENT, 10.0)
        dog.look(MATCHED, 20.0)
        assert dog.look(WELL, 25.0) == (
            "/image: input is back after 19.0 s (the publisher is alive, but silent)",
            False,
        )
        assert dog.diagnosis is None
        assert dog.look(WELL, 26.0) is None


class TestProfiles:
    BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    LATCHED = QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    IN_TIME = QoSProfile(depth=1, deadline=Duration(seconds=0.5))

    def test_in_words(self):
        assert describe(self.BEST_EFFORT) == "best effort, volatile"
        assert describe(self.LATCHED) == "reliable, transient local"
        assert describe(self.IN_TIME) == "reliable, volatile, deadline 0.5 s"

    @pytest.mark.parametrize(
        ("offered", "wanted", "policy"),
        [
            ("BEST_EFFORT", "BEST_EFFORT", ""),
            ("RELIABLE", "BEST_EFFORT", ""),
            ("LATCHED", "RELIABLE", ""),
            ("BEST_EFFORT", "RELIABLE", "reliability"),
            ("RELIABLE", "LATCHED", "durability"),
            ("RELIABLE", "IN_TIME", "deadline"),
            ("BEST_EFFORT", "LATCHED", "reliability"),
        ],
    )
    def test_the_policy_that_keeps_two_apart_is_named(self, offered, wanted, policy):
        assert conflict(getattr(self, offered), getattr(self, wanted)) == policy


def test_other_domains_are_read_from_the_ports_that_are_open(tmp_path):
    def line(number: int, port: int) -> str:
        return (
            f"  {number}: 00000000:{port:04X} 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1\n"
        )

    # Participants 0 and 3 of domain 0, 1 of domain 42, one of ours (7), DNS, an odd port, one too high.
    ports = [7410, 7416, 7400 + 250 * 42 + 12, 7400 + 250 * 7 + 10, 53, 7411, 7400 + 250 * 102 + 10]
    table = tmp_path / "proc/net/udp"
    table.parent.mkdir(parents=True)
    table.write_text("  sl  local_address rem_address\n" + "".join(map(line, range(len(ports)), ports)))

    assert list(other_domains(7, tmp_path)) == [0, 42]
    assert list(other_domains(0, tmp_path / "nowhere")) == []


def test_the_end_of_a_replay_is_said_once_and_is_no_complaint():
    dog = Watchdog()
    over = replace(SILENT, sim_time=True, clock_gone_s=3.0, publishers=())
    text, complaint = dog.look(over, 0.0)
    assert "/clock has ended" in text
    assert not complaint
    assert dog.look(replace(over, clock_gone_s=4.0), 1.0) is None


def test_the_input_is_back_with_its_first_image_and_not_with_its_publisher():
    dog = Watchdog()
    dog.look(SILENT, 0.0)
    another = replace(MATCHED, window=TrafficWindow(duration_s=1.0), listening_s=1.0)
    assert dog.look(another, 10.0) is None
    text, _ = dog.look(WELL, 11.0)
    assert "input is back after 15.0 s" in text


def test_what_other_detectors_have_drawn_is_no_camera():
    topics = {"/front/image": "driver", "/front/annotated": "detector"}
    info = {
        topic: [SimpleNamespace(node_namespace="/", node_name=name, topic_type="sensor_msgs/msg/Image")]
        for topic, name in topics.items()
    }
    node = SimpleNamespace(
        get_namespace=lambda: "/",
        get_name=lambda: "ours",
        get_topic_names_and_types=lambda: [(topic, ["sensor_msgs/msg/Image"]) for topic in topics],
        get_publishers_info_by_topic=info.get,
    )
    assert dict(_image_topics(node, "/image")) == {"/front/image": "sensor_msgs/msg/Image"}


class TestRivals:
    def node(self, names, publishers):
        return SimpleNamespace(
            get_namespace=lambda: "/uav1",
            get_name=lambda: "eye",
            get_node_names_and_namespaces=lambda: names,
            get_publishers_info_by_topic=lambda topic: [
                SimpleNamespace(node_namespace=namespace, node_name=name)
                for namespace, name in publishers.get(topic, [])
            ],
        )

    def test_a_node_alone_has_none(self):
        node = self.node([("eye", "/uav1"), ("eye", "/uav2")], {"/uav1/detections": [("/uav1", "eye")]})
        assert rivals(node, ["/uav1/detections"]) == ""

    def test_two_of_one_name_are_counted(self):
        assert rivals(self.node([("eye", "/uav1")] * 2, {}), []) == "2 nodes are called /uav1/eye"

    def test_two_publishers_are_named(self):
        node = self.node([("eye", "/uav1")], {"/found": [("/uav1", "eye"), ("/", "other")]})
        assert rivals(node, ["/found"]) == "/other and /uav1/eye publish /found"


def test_a_rival_is_told_after_a_while_in_the_log_and_on_diagnostics(monkeypatch):
    now, found, lines = [100.0], [""], []
    monkeypatch.setattr("yolo_trt_node.node.health.rivals", lambda node, topics: found[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    health = Health.__new__(Health)
    health._rivals, health._rivals_since_s, health._rivals_said = "", 0.0, False
    health._rivals_now, health._rivals_due_s = "", 0.0
    health._node = SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=lines.append))

    def look(after_s):
        now[0] += after_s
        return health._rival([])

    assert look(6.0) == ""
    found[0] = "2 nodes are called /eye"
    assert look(6.0) == ""
    assert look(20.0) == ""  # one that was killed is still in the graph
    assert look(15.0) == look(1.0) == found[0]
    assert len(lines) == 1
    assert "2 nodes are called /eye" in lines[0]
    found[0] = ""
    assert look(6.0) == ""
