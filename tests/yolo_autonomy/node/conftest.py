"""Adapters and what they talk to in one process, each a node of its own, over real DDS."""

import os
import random
import time

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter


class Bench:
    """One context; all its nodes are spun by whoever waits."""

    def __init__(self, domain: int) -> None:
        self.domain = domain
        self.context = rclpy.Context()
        self.context.init(domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes = []
        self.peer = self.add(rclpy.create_node("peer", context=self.context))

    def add(self, node):
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def adapter(self, kind, **parameters):
        given = [Parameter(name, value=value) for name, value in parameters.items()]
        return self.add(kind(context=self.context, parameter_overrides=given))

    def listen(self, kind, topic, qos=10) -> list:
        heard = []
        self.peer.create_subscription(kind, topic, heard.append, qos)
        return heard

    def spin_until(self, condition, patience_s=20.0) -> bool:
        end = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True

    def connected(self, *publishers) -> bool:
        """Wait until each publisher has a reader."""
        return self.spin_until(lambda: all(p.get_subscription_count() for p in publishers))

    def close(self) -> None:
        self.executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Another run of this suite on the same machine must not hear this one.
    bench = Bench(random.Random(os.getpid() + 1).randrange(1, 100))
    yield bench
    bench.close()
