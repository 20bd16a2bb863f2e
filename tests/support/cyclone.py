"""Sends or receives frames of 1920x1080 over Cyclone DDS itself: ``cyclone.py send|receive SECONDS``."""

import sys
import time
from dataclasses import dataclass

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import sequence, uint8
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic


@dataclass
class Frame(IdlStruct, typename="Frame"):
    data: sequence[uint8]


def main(task: str, seconds: float) -> None:
    qos = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(1))
    topic = Topic(DomainParticipant(), "frames", Frame, qos=qos)
    count, pixels = 0, bytes(1920 * 1080 * 3)
    if task == "send":
        writer = DataWriter(topic.participant, topic, qos=qos)
        while not writer.get_matched_subscriptions():
            time.sleep(0.01)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            writer.write(Frame(pixels))
            count += 1
            time.sleep(0.1)
        time.sleep(0.5)
    else:
        reader = DataReader(topic.participant, topic, qos=qos)
        while not reader.get_matched_publications():
            time.sleep(0.01)
        while reader.get_matched_publications():
            count += len(reader.take(10))
            time.sleep(0.002)
    print(count)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
