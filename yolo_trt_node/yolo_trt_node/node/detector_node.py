"""The node: images in, detections out, under a life cycle that starts itself."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionInfo

from yolo_trt_node.detector import Detector, ModelError
from yolo_trt_node.detector.engine_process import cancel_builds
from yolo_trt_node.memory import give_back_freed, keep_freed_images
from yolo_trt_node.node import parameters
from yolo_trt_node.node.camera import AnyImage, CameraChannel
from yolo_trt_node.node.ground import GroundProjection
from yolo_trt_node.node.health import Health
from yolo_trt_node.node.life_cycle import Transitions
from yolo_trt_node.node.messages import label_info, vision_info
from yolo_trt_node.node.pipeline import Pipeline
from yolo_trt_node.node.qos import create_publisher, latched_qos
from yolo_trt_node.node.transforms import TransformListener
from yolo_trt_node.node.worker import Worker
from yolo_trt_node.node_options import LiveOptions, Settings
from yolo_trt_node.params_file import meant_for_others
from yolo_trt_node.stop_signals import stop_flag
from yolo_trt_node.tracking import Tracker

# Most cameras are 16:9; a first frame of another aspect compiles its own input shape when it comes.
WARM_UP_SIZE = (720, 1280)
# How soon a camera's new publishers are followed.
FOLLOW_PERIOD_S = 0.5
DETECTOR_LOG = logging.getLogger("yolo_trt_node.detector")
# How long a signal may wait to be noticed while nothing happens.
SPIN_PERIOD_S = 0.1
# How long a transition may still run after a signal; code that cannot be interrupted ends with the process.
WORK_STOP_PATIENCE_S = 4.0
# What is wrong with a parameter, a model or a topic's name, and not with us.
FORESEEN = (ModelError, ValueError, ParameterException, NameValidationException)


class RosLog(logging.Handler):
    """Passes what the detector logs (engine builds, fallbacks) on to the node's log and ``/diagnostics``."""

    def __init__(self, node: LifecycleNode, health: Health) -> None:
        """Log through a node, and tell its health how far a build is."""
        super().__init__(logging.INFO)
        self._node = node
        self._health = health

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one line on; rclpy wants each severity on a line of its own."""
        self._health.progresses(record.getMessage())
        logger = self._node.get_logger()
        if record.levelno >= logging.ERROR:
            logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            logger.warning(record.getMessage())
        else:
            logger.info(record.getMessage())


class DetectorNode(LifecycleNode):
    """Publishes the objects in the newest images of one camera or several.

    Topics (relative, so that remaps and namespaces work; under the camera's name where there are several):
        ``image`` in, ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``;
        ``detections`` out, ``vision_msgs/Detection2DArray``, reliable, one message an image, with its header;
        ``annotated`` out, ``sensor_msgs/Image``, built only while somebody listens;
        ``detections_3d`` out, ``vision_msgs/Detection3DArray``, where ``ground_frame`` is set;
    and for all cameras ``label_info`` and ``vision_info`` out, latched.

    Attributes:
        given_up: why the process has to end, though nobody asked it to; empty while it need not.

    Threads: the executor's only stores images and answers services; "inference" (`Worker`) does all that
    happens to an image (`Pipeline`); "transitions" (`Transitions`) runs the life cycle, and is the only one
    that creates and destroys what the others use; "health" (`Health`) watches, and says what is wrong.
    """

    def __init__(self, **arguments: object) -> None:
        """Declare the parameters; everything else waits for the configure transition."""
        super().__init__("yolo_detector", **arguments)
        self._complaints = parameters.declare(self)
        # What is set, kept here since rclpy stores a value only after the callback that accepts it.
        self._given = parameters.values(self)
        # The same, read and checked. A value given at start that does not fit is refused at configure.
        try:
            self._settings = parameters.read_settings(self._given)
        except ValueError:
            self._settings = Settings.read({})
        # Between the executor, where parameters are set, and the transitions, which read them.
        self._lock = threading.Lock()
        self._detector: Detector | None = None
        self._cameras: list[CameraChannel] = []
        self._worker: Worker[AnyImage] | None = None
        self._pipeline: Pipeline | None = None
        self._outputs: dict[str, LifecyclePublisher] = {}
        self._transforms: TransformListener | None = None
        # Of all cameras and for the node's whole life: an id never comes to mean another object.
        self._track_ids = itertools.count(1)
        self._timers_active: list[Timer] = []
        self._health = Health(self)
        self._log_handler = RosLog(self, self._health)
        self.given_up = ""
        self._transitions = Transitions(self)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _give_up(self, reason: str) -> None:
        """End the process, from any thread: what starts it again gets a node that works."""
        if not self.given_up:
            self.get_logger().fatal(f"{reason}. This process ends; let launch start it again (use_respawn)")
            self.given_up = reason

    def _live(self) -> LiveOptions:
        return self._settings.live

    def start(self) -> None:
        """Configure and activate, where the parameter ``autostart`` says so, while the executor spins."""
        if self.get_parameter("autostart").value:
            self._transitions.submit(self._autostart)

    def _autostart(self) -> None:
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def stop(self) -> bool:
        """Stop detecting and give everything back, before the node is destroyed; the executor is at rest.

        Returns:
            False where code that cannot be interrupted still runs in another thread.
        """
        cancel_builds()
        if not self._transitions.stop(WORK_STOP_PATIENCE_S):
            return False
        self._release()
        return True

    def destroy_node(self) -> None:
        """Destroy the node; up to here it has said how it is."""
        self._health.close()
        super().destroy_node()

    # --- Life cycle -----------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers; FAILURE (with the reason logged) leaves all as it was."""
        return self._transition(
            "configure", self._configure, lambda: super(DetectorNode, self).on_configure(state)
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to detect."""
        return self._transition(
            "activate", lambda: super(DetectorNode, self).on_activate(state), self._activate
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to listen; the model stays loaded."""
        return self._transition(
            "deactivate", self._deactivate, lambda: super(DetectorNode, self).on_deactivate(state)
        )

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the model back; the next configure may take another."""
        return self._transition("cleanup", self._release, lambda: super(DetectorNode, self).on_cleanup(state))

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and give everything back, from any state."""
        return self._transition(
            "shutdown", self._release, lambda: super(DetectorNode, self).on_shutdown(state)
        )

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after a transition that failed in an unforeseen way."""
        return self._transition("recover", self._release)

    def _transition(self, name: str, *steps: Callable[[], object]) -> TransitionCallbackReturn:
        """Run a transition's steps; rclpy itself would swallow an exception without a word."""
        self._health.begins(name)
        try:
            for step in steps:
                step()
        except FORESEEN as error:
            self.get_logger().error(f"{name} failed: {error}")
            self._health.ends(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.get_logger().error(f"{name} failed in an unforeseen way:\n{traceback.format_exc()}")
            self._health.ends(f"in an unforeseen way: {error!r}; the log has more")
            return TransitionCallbackReturn.ERROR
        self._health.ends()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        with self._lock:
            given = dict(self._given)
            complaints = "; ".join(self._complaints.values())
        if complaints:
            raise ValueError(f"{complaints}. Set it (`ros2 param set`) and configure again")
        settings = parameters.read_settings(given)
        if not settings.node.model:
            # A file for another node's name is the likeliest reason, and ROS does not tell.
            others = meant_for_others(sys.argv, self.get_fully_qualified_name())
            raise ValueError(
                f"{others}{'. So there is ' if others else ''}no model: set the parameter model to the path "
                "of an ONNX file (model:=/path/to/model.onnx in the launch file, or `ros2 param set`), then "
                "configure again"
            )
        try:
            self._load(settings)
        except Exception:
            self._release()
            raise

    def _load(self, settings: Settings) -> None:
        DETECTOR_LOG.setLevel(logging.INFO)
        DETECTOR_LOG.addHandler(self._log_handler)
        detector = Detector.load(settings.node.model, settings.detector)
        try:
            shape = detector.prepare(*WARM_UP_SIZE)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{detector.path}: the model loads but does not run: {error}") from error
        give_back_freed()
        for topic, kind in (("label_info", LabelInfo), ("vision_info", VisionInfo)):
            self._outputs[topic] = create_publisher(self, kind, topic, latched_qos())
        for name in parameters.camera_names(settings.node.cameras):
            camera = CameraChannel(
                self,
                name,
                transport=settings.node.image_transport,
                reliability=settings.node.image_reliability,
                live=self._live,
                max_pixels=settings.node.max_pixels,
                projected=settings.ground is not None,
            )
            self._cameras.append(camera)
        with self._lock:
            # What is live may have been set while the model was loading.
            detector.set_options(self._settings.detector)
            self._detector = detector
        self._health.uses(detector)
        self.get_logger().info(
            f"loaded {detector.path} on {detector.backend} ({detector.backend_reason}), precision "
            f"{detector.precision}: {len(detector.card.names)} classes, "
            f"input {shape[0]}x{shape[1]} for 16:9 images, score threshold {detector.score_threshold:g}"
        )

    def _activate(self) -> None:
        assert self._detector is not None
        node = self._settings.node
        pipeline = Pipeline(
            self,
            self._detector,
            self._cameras,
            self._live,
            node.max_pixels,
            node.thermal_range,
            self._give_up,
        )
        self._worker = Worker(
            pipeline.process,
            sources=len(self._cameras),
            batch=self._detector.card.fixed_batch or self._detector.options.max_batch,
            window_s=lambda: self._live().batch_window_s,
        )
        self._pipeline = pipeline
        pipeline.hand_back_to(self._worker.put)
        try:
            self._track_and_project()
            for number, camera in enumerate(self._cameras):
                camera.open(partial(self._worker.put, number))
        except Exception:
            self._deactivate()
            raise
        # By a steady clock: with use_sim_time the node's own stands still while nothing plays.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers_active = [self.create_timer(FOLLOW_PERIOD_S, self._follow, clock=steady)]
        self._health.watches(self._cameras)
        self._publish_info()
        for camera in self._cameras:
            assert camera.source is not None
            self.get_logger().info(
                f"active: listening on {camera.source.topic}, "
                f"publishing {camera.outputs['detections'].topic_name}"
            )

    def _track_and_project(self) -> None:
        """Give the cameras what the parameters ask for beyond detections."""
        tracking = self._settings.tracker
        ground = self._settings.ground
        if ground is not None:
            self._transforms = TransformListener(self, self._flush_ground)
        for camera in self._cameras:
            camera.tracker = None if tracking is None else Tracker(tracking, self._track_ids)
            if ground is not None and self._transforms is not None:
                publisher = camera.outputs["detections_3d"]
                camera.ground = GroundProjection(
                    self, camera.topic, publisher, self._transforms.buffer, ground
                )

    def _flush_ground(self) -> None:
        for camera in self._cameras:
            if camera.ground is not None:
                camera.ground.flush()

    def _deactivate(self) -> None:
        self._health.watches([])
        # First the sources, then the worker: nothing is left that could start a frame.
        for timer in self._timers_active:
            self.destroy_timer(timer)
        self._timers_active = []
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None
        for camera in self._cameras:
            camera.close()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _release(self) -> None:
        self._deactivate()
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        with self._lock:
            detector, self._detector = self._detector, None
        self._health.uses(None)
        if detector is not None:
            # Its GPU memory is free before the next model is loaded.
            detector.close()
        DETECTOR_LOG.removeHandler(self._log_handler)

    def _publish_info(self) -> None:
        detector = self._detector
        if detector is None:
            return
        header = Header(stamp=self.get_clock().now().to_msg())
        self._outputs["label_info"].publish(label_info(header, detector.card, detector.score_threshold))
        self._outputs["vision_info"].publish(
            vision_info(
                header,
                f"{detector.path.name} ({detector.backend}); class_id is the class's "
                + detector.options.class_id,
                self.resolve_topic_name("label_info"),
            )
        )

    # --- While it is active ---------------------------------------------------------------------------------

    def _follow(self) -> None:
        for camera in self._cameras:
            camera.follow()
        self._flush_ground()  # so that what waits in vain is given up, with a warning

    # --- Parameters -----------------------------------------------------------------------------------------

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """Check a set of changes as a whole; what is live takes effect at once."""
        ours = {parameter.name: parameter.value for parameter in changed if parameter.name in self._given}
        with self._lock:
            # `ros2 param load` sets everything that a dump holds, mostly to what it is already.
            new = {name: value for name, value in ours.items() if value != self._given[name]}
            wanted = {**self._given, **ours}
            try:
                if self._state_machine.current_state[1] != "unconfigured":
                    parameters.refuse_unless_live(new)
                settings = parameters.read_settings(wanted)
                if self._detector is not None:
                    self._detector.set_options(settings.detector)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
            self._given, self._settings = wanted, settings
            for name in ours:
                self._complaints.pop(name, None)
        if {"score_threshold", "class_id"}.intersection(ours) and self._worker is not None:
            self._publish_info()
        return SetParametersResult(successful=True)


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    keep_freed_images()
    # A flag that the loop reads keeps the order: stop the worker, destroy the node, shut down.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = stop_flag()
    node = DetectorNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    at_rest = False
    try:
        node.start()
        while not stopping() and not node.given_up and rclpy.ok():
            try:
                executor.spin_once(timeout_sec=SPIN_PERIOD_S)
            except _rclpy.InvalidHandle:
                continue  # what was ready has just been destroyed by a transition
            except Exception:
                # rclpy raises what a callback raised.
                node.get_logger().error(f"a request failed:\n{traceback.format_exc()}")
    finally:
        at_rest = node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        if not at_rest:
            # A thread is inside a library that cannot be interrupted; Python would wait for it, or crash.
            os._exit(1 if node.given_up else 0)
    if node.given_up:
        sys.exit(1)


if __name__ == "__main__":
    main()
