"""Frames of 1920x1080 between processes, with and without the shipped DDS profiles."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from rclpy.event_handler import SubscriptionEventCallbacks
from sensor_msgs.msg import Image
from support import cameras
from support.ros import NodeProcess, wait_until

PROFILES = Path(__file__).resolve().parents[3] / "config" / "dds"
CYCLONE = PROFILES / "cyclonedds_large_frames.xml"

with_cyclone = pytest.mark.skipif(
    importlib.util.find_spec("cyclonedds") is None, reason="the package cyclonedds is not installed"
)


class TestFastDds:
    @pytest.fixture(autouse=True)
    def _room(self):
        if "fastrtps" not in rclpy.get_rmw_implementation_identifier():
            pytest.skip(f"for Fast DDS; this is {rclpy.get_rmw_implementation_identifier()}")
        if shutil.disk_usage("/dev/shm").free < 128 << 20:
            pytest.skip("less than 128 MB free in /dev/shm")

    def fly(self, peer, environment: dict[str, str]) -> tuple[int, int]:
        """Return how many frames of a sender with this environment arrive, and how many are lost."""
        arrived, lost = [], []
        subscription = peer.node.create_subscription(
            Image,
            "/large",
            lambda message: arrived.append(message.height),
            cameras.BEST_EFFORT,
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=lambda event: lost.append(event.total_count_change)
            ),
        )
        sender = NodeProcess([sys.executable, cameras.__file__], environment)
        try:
            assert wait_until(lambda: len(arrived) + sum(lost) >= 5), sender.log
            # What was lost while the two found each other does not count.
            arrived.clear()
            lost.clear()
            assert wait_until(lambda: len(arrived) + sum(lost) >= 15), sender.log
        finally:
            sender.close()
            peer.node.destroy_subscription(subscription)
        return len(arrived), sum(lost)

    def test_with_the_profile_on_the_senders_side_the_frames_arrive(self, peer, environment):
        arrived, lost = self.fly(peer, environment)
        assert arrived > 4 * lost, f"{arrived} arrived, {lost} lost"

    def test_without_it_hardly_any_does_although_the_receiver_has_it(self, peer, environment):
        without = {name: value for name, value in environment.items() if "PROFILES_FILE" not in name}
        arrived, lost = self.fly(peer, without)
        assert lost > arrived, f"{arrived} arrived, {lost} lost"


@with_cyclone
class TestCycloneDds:
    def run(self, profile: Path | None, domain: int, *arguments: str) -> subprocess.Popen:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "CYCLONEDDS_URI": ""}
        if profile is not None:
            environment["CYCLONEDDS_URI"] = f"file://{profile}"
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fly(self, profile: Path | None, domain: int) -> tuple[int, int]:
        """Return how many frames were sent and how many arrived."""
        script = str(Path(cameras.__file__).with_name("cyclone.py"))
        receiver = self.run(profile, domain, script, "receive", "0")
        sender = self.run(profile, domain, script, "send", "2")
        try:
            (sent, sender_says), (received, receiver_says) = (
                process.communicate(timeout=60) for process in (sender, receiver)
            )
        finally:
            for process in (sender, receiver):
                process.kill()
        assert sent, sender_says
        assert received, receiver_says
        return int(sent), int(received)

    def test_it_takes_the_profile_and_no_misspelt_one(self, domain, tmp_path):
        script = "from cyclonedds.domain import DomainParticipant; DomainParticipant(); print('takes it')"
        misspelt = tmp_path / "misspelt.xml"
        misspelt.write_text(CYCLONE.read_text().replace("FragmentSize>", "FragmentsSize>"))

        said, complaint = self.run(CYCLONE, domain, "-c", script).communicate(timeout=60)
        assert (said, complaint) == ("takes it\n", "")
        said, complaint = self.run(misspelt, domain, "-c", script).communicate(timeout=60)
        assert "takes it" not in said
        assert "FragmentsSize" in complaint

    def test_with_the_profile_the_frames_arrive_and_without_it_fewer(self, domain):
        sent, arrived = self.fly(CYCLONE, domain)
        sent_without, arrived_without = self.fly(None, domain)
        assert arrived >= 0.8 * sent, f"{arrived} of {sent} arrived"
        assert arrived_without / sent_without <= arrived / sent
