"""What ``/diagnostics`` says: from what is known to levels, messages and values.

Pure; `health` makes messages of it. Levels, names (``<node>: <task>``) and, where it has them, keys are those
of ``diagnostic_updater``: rqt_robot_monitor and diagnostic_aggregator read them like any other node's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from yolo_trt_node.health.diagnosis import Cause, Diagnosis
from yolo_trt_node.health.jetson import BoardReading
from yolo_trt_node.health.statistics import VIDEO_DELAY, TrafficWindow
from yolo_trt_node.options import option

if TYPE_CHECKING:
    from yolo_trt_node.detector import Detector

# What the other values say already.
SAID_OF_CARDS = ("names", "input", "head", "score_threshold", "iou_threshold")
# Above this share of lost images a planner should know.
LOST_SHARE = 0.1


class Level(IntEnum):
    """The levels of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


class MessageText:
    """What a message can begin with. ``docs/no_detections.md`` explains each."""

    ACTIVE = "active"
    WAITING = "waiting to be configured"
    INACTIVE = "configured, waiting to be activated"
    SHUT_DOWN = "shut down"
    BUSY = "busy"
    FAILED = "failed"
    RIVAL = "another node is in the way"
    LOADED = "loaded"
    NOT_LOADED = "no model is loaded"
    ARRIVING = "images arrive"
    FIRST_IMAGE = "waiting for the first image"
    NO_INPUT = "no image"
    STOPPED = "the input has stopped"
    SLOW_INPUT = "too few images arrive"
    SOME_LOST = "images are lost on the way"
    SOME_UNREADABLE = "some images cannot be read"
    ANSWERED = "images are answered"
    UNHEARD = "no image is looked at"
    LATE = "detections come late"
    UNANSWERED = "images arrive, but none is answered"
    NOTHING_TO_DO = "nothing to answer"
    COOL = "neither hot nor throttled"
    HOT = "the board is hot"
    THROTTLED = "the board is throttled"


@dataclass(frozen=True)
class Status:
    """One task's status.

    Attributes:
        task: its name.
        level: how bad it is.
        message: in one line.
        values: by key.
    """

    task: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Thresholds:
    """When a status is no longer OK; they are the parameters ``diagnostics.*``."""

    min_rate_hz: float = option(
        1.0,
        "/diagnostics warns where a camera sends fewer images a second; 0.0: any rate is fine.",
        low=0.0,
        high=1000.0,
    )
    error_rate_hz: float = option(
        0.0,
        "/diagnostics reports an error where a camera sends fewer; 0.0: only where none come.",
        low=0.0,
        high=1000.0,
    )
    max_frame_age_s: float = option(
        0.5,
        "/diagnostics warns where the 95th percentile of the frame age at publication is higher, in seconds.",
        low=0.0,
        high=3600.0,
    )
    error_frame_age_s: float = option(
        2.0, "/diagnostics reports an error where it is higher, in seconds.", low=0.0, high=3600.0
    )
    input_timeout_s: float = option(
        3.0,
        "After this many seconds without an image the input is stale, and the log says the likeliest reason.",
        low=0.1,
        high=3600.0,
    )
    max_temperature_c: float = option(
        85.0,
        "On a Jetson: /diagnostics warns where a sensor is hotter, in degrees Celsius.",
        low=0.0,
        high=200.0,
    )
    error_temperature_c: float = option(
        95.0,
        "On a Jetson: /diagnostics reports an error where a sensor is hotter, in degrees Celsius.",
        low=0.0,
        high=200.0,
    )


@dataclass(frozen=True)
class LifeCycle:
    """Where the node stands in its life cycle.

    Attributes:
        state: ``unconfigured``, ``inactive``, ``active`` or ``finalized``.
        transition: the transition that runs now, as ``configure``; empty for none.
        since_s: seconds since that began.
        progress: the last thing that was said of its progress.
        failure: why the last transition failed; empty where it did not.
    """

    state: str = "unconfigured"
    transition: str = ""
    since_s: float = 0.0
    progress: str = ""
    failure: str = ""


def life_cycle_status(now: LifeCycle) -> Status:
    """Say whether the node is at work, and why not."""
    values = {"State": now.state}
    if now.transition:
        values |= {"Transition": now.transition, "Duration (s)": f"{now.since_s:.0f}"}
        progress = f": {now.progress}" if now.progress else ""
        message = f"{MessageText.BUSY}: {now.transition}, for {now.since_s:.0f} s{progress}"
        return Status("life cycle", Level.WARN, message, values)
    if now.failure:
        return Status("life cycle", Level.ERROR, f"{MessageText.FAILED}: {now.failure}", values)
    message = {
        "active": MessageText.ACTIVE,
        "inactive": MessageText.INACTIVE,
        "finalized": MessageText.SHUT_DOWN,
    }.get(now.state, MessageText.WAITING)
    return Status("life cycle", Level.OK if now.state == "active" else Level.WARN, message, values)


def model_status(detector: Detector | None, failed: bool) -> Status:
    """Say which model runs on what, and in which precision.

    Args:
        detector: the loaded one.
        failed: whether the last attempt to load one failed.
    """
    if detector is None:
        return Status("model", Level.ERROR if failed else Level.WARN, MessageText.NOT_LOADED)
    card = detector.card
    values = {
        "Model": str(detector.path),
        "Backend": detector.backend,
        "Backend chosen because": detector.backend_reason,
        "Precision": detector.precision,
        "Engine": ", ".join(detector.engines) or "none: the backend compiles in memory",
        "Input size": f"{card.height}x{card.width}",
        "Head": card.head,
        "Classes": ", ".join(card.names),
        "Score threshold": f"{detector.score_threshold:g}",
        "IoU threshold": f"{detector.iou_threshold:g}",
        **{f"Card: {key}": str(value) for key, value in card.details.items() if key not in SAID_OF_CARDS},
    }
    message = f"{MessageText.LOADED}: {detector.path.name} on {detector.backend}, {detector.precision}"
    return Status("model", Level.OK, message, values)


def input_status(
    name: str,
    topic: str,
    window: TrafficWindow,
    total: int,
    diagnosis: Diagnosis | None,
    thresholds: Thresholds,
) -> Status:
    """Say whether a camera's images arrive.

    Args:
        name: of the camera; empty for the only one.
        topic: full name of the topic it is read from.
        window: the last seconds.
        total: images since the node was activated.
        diagnosis: what is wrong, as far as it is known.
        thresholds: the limits.
    """
    values = {
        "Topic": topic,
        "Events in window": str(window.received),
        "Events since startup": str(total),
        "Duration of window (s)": f"{window.duration_s:.3f}",
        "Actual frequency (Hz)": f"{window.input_hz:.3f}",
        "Minimum acceptable frequency (Hz)": f"{thresholds.min_rate_hz:g}",
        "Longest gap (s)": f"{window.longest_gap_s:.3f}",
        "Lost on the way": str(window.lost),
        **{f"Unreadable: {reason}": str(count) for reason, count in window.unreadable.items()},
    }
    if window.silent_s is not None:
        values["Time since last image (s)"] = f"{window.silent_s:.3f}"
    if diagnosis is not None:
        values["Cause"] = diagnosis.cause.value
    level, message = _judge_input(window, diagnosis, thresholds)
    return Status(_task(name, "input"), level, message, values)


def _judge_input(
    window: TrafficWindow, diagnosis: Diagnosis | None, thresholds: Thresholds
) -> tuple[Level, str]:
    why = f": {diagnosis}" if diagnosis is not None else ""
    if window.silent_s is None:
        return (
            (Level.ERROR, MessageText.NO_INPUT + why) if diagnosis else (Level.WARN, MessageText.FIRST_IMAGE)
        )
    if window.silent_s > thresholds.input_timeout_s:
        return Level.STALE, f"{MessageText.STOPPED} {window.silent_s:.1f} s ago{why}"
    if diagnosis is not None:
        return (Level.ERROR if diagnosis.cause.blocks else Level.WARN), str(diagnosis)
    rate = f"{window.input_hz:.1f} Hz"
    if window.input_hz < thresholds.min_rate_hz:
        below_error = window.input_hz < thresholds.error_rate_hz
        limit_hz = thresholds.error_rate_hz if below_error else thresholds.min_rate_hz
        level = Level.ERROR if below_error else Level.WARN
        return level, f"{MessageText.SLOW_INPUT}: {rate}, and {limit_hz:g} Hz are expected"
    if window.lost > LOST_SHARE * (window.lost + window.received):
        return Level.WARN, f"{MessageText.SOME_LOST}: {window.lost}, while {window.received} arrived"
    if window.unreadable:
        reason, count = max(window.unreadable.items(), key=lambda item: item[1])
        return Level.WARN, f"{MessageText.SOME_UNREADABLE}: {count} of {window.received}: {reason}"
    return Level.OK, f"{MessageText.ARRIVING}: {rate}"


def detections_status(name: str, window: TrafficWindow, stale: bool, thresholds: Thresholds) -> Status:
    """Say whether a camera's images are answered, and how fast.

    Args:
        name: of the camera; empty for the only one.
        window: the last seconds.
        stale: whether the input has stopped, or never began.
        thresholds: the limits.
    """
    values = {
        "Actual frequency (Hz)": f"{window.output_hz:.3f}",
        "Dropped for newer images": str(window.dropped),
        **{f"Left out: {reason}": str(count) for reason, count in window.skipped.items()},
        "Maximum acceptable frame age (s)": f"{thresholds.max_frame_age_s:g}",
    }
    median_s, late_s = window.age_s(50), window.age_s(95)
    if median_s is not None and late_s is not None:
        values |= {
            "Frame age p50 (s)": f"{median_s:.4f}",
            "Frame age p95 (s)": f"{late_s:.4f}",
        }
    if window.published:
        values["Boxes per image"] = f"{window.boxes / window.published:.1f}"
    for stage in window.timing:
        values |= {
            f"Stage {stage} p50 (s)": f"{window.stage_s(stage):.4f}",
            f"Stage {stage} p95 (s)": f"{window.stage_s(stage, 95):.4f}",
        }
    level, message = _judge_detections(window, stale, thresholds)
    return Status(_task(name, "detections"), level, message, values)


def _judge_detections(window: TrafficWindow, stale: bool, thresholds: Thresholds) -> tuple[Level, str]:
    late_s = window.age_s(95)
    if late_s is None and window.published:
        return (
            Level.OK,
            f"{MessageText.ANSWERED}: {window.output_hz:.1f} Hz, frame age unknown: their stamps are zero",
        )
    if late_s is None:
        if stale or not window.received:
            return Level.STALE, MessageText.NOTHING_TO_DO
        if window.skipped:
            return (
                Level.OK,
                f"{MessageText.UNHEARD}: {max(window.skipped, key=lambda why: window.skipped[why])}",
            )
        return Level.ERROR, f"{MessageText.UNANSWERED}: {window.received} in {window.duration_s:.0f} s"
    if late_s > thresholds.max_frame_age_s:
        over_error = late_s > thresholds.error_frame_age_s
        limit_s = thresholds.error_frame_age_s if over_error else thresholds.max_frame_age_s
        level = Level.ERROR if over_error else Level.WARN
        return level, f"{MessageText.LATE}: frame age p95 {late_s:.3f} s, and {limit_s:g} s are acceptable"
    return Level.OK, f"{MessageText.ANSWERED}: {window.output_hz:.1f} Hz, frame age p95 {1e3 * late_s:.0f} ms"


def board_status(model: str, reading: BoardReading, thresholds: Thresholds) -> Status:
    """Say how hot and how fast the board is."""
    values = {
        "Board": model,
        **{f"Temperature {zone} (C)": f"{value:.1f}" for zone, value in reading.temperatures_c.items()},
    }
    if reading.power_mode:
        values["Power mode"] = reading.power_mode
    for key, value in (
        ("GPU frequency (MHz)", reading.gpu_mhz),
        ("GPU frequency limit (MHz)", reading.gpu_limit_mhz),
    ):
        if value is not None:
            values[key] = f"{value:.0f}"
    values["Throttled by"] = ", ".join(reading.throttled_by) or "nothing"
    level, message = Level.OK, MessageText.COOL
    if reading.throttled_by:
        level, message = Level.WARN, f"{MessageText.THROTTLED}: {', '.join(reading.throttled_by)}"
    if reading.hottest is not None and reading.hottest[1] > thresholds.max_temperature_c:
        zone, hottest_c = reading.hottest
        over_error = hottest_c > thresholds.error_temperature_c
        level = Level.ERROR if over_error else Level.WARN
        also = f"; {message}" if reading.throttled_by else ""
        message = f"{MessageText.HOT}: {zone} {hottest_c:.1f} C{also}"
    return Status("board", level, message, values)


def log_line(topic: str, window: TrafficWindow) -> str:
    """Tell in one line what became of a camera's images."""
    line = (
        f"{topic}: {window.received} images in {window.duration_s:.0f} s ({window.input_hz:.1f} Hz), "
        f"{window.published} answered, {window.dropped} dropped for newer ones"
    )
    for reasons, word in ((window.skipped, "left out"), (window.unreadable, "unreadable")):
        if reasons:
            line += f", {sum(reasons.values())} {word} ({'; '.join(reasons)})"
    if window.lost:
        line += f", {window.lost} lost on the way"
    median_s, late_s = window.age_s(50), window.age_s(95)
    if median_s is not None and late_s is not None:
        line += f"; age at publication {1e3 * median_s:.0f} ms (p95 {1e3 * late_s:.0f} ms)"
    inference_s = window.stage_s("inference")
    if inference_s is not None:
        line += f", inference {1e3 * inference_s:.0f} ms"
    delay_s = window.stage_s(VIDEO_DELAY)
    if delay_s is not None:
        line += f", video delay {1e3 * delay_s:.0f} ms"
    return line


def _task(camera: str, what: str) -> str:
    return f"{camera.strip('/')} {what}" if camera else what


MESSAGES = tuple(value for name, value in vars(MessageText).items() if name.isupper()) + tuple(
    cause.value for cause in Cause
)
"""Everything that a message or a finding can begin with."""
