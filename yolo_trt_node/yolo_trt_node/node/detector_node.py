"""The node: images in, detections out, under a life cycle that starts itself."""

from __future__ import annotations

import logging
import signal
import statistics
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from yolo_trt_node.detector import Detections, Detector, ModelError
from yolo_trt_node.drawing import draw_detections
from yolo_trt_node.node import parameters
from yolo_trt_node.node.images import ImageError, Pixels, to_bgr
from yolo_trt_node.node.messages import detection_array, image_message, label_info, vision_info
from yolo_trt_node.node.worker import NewestFirst

# A best-effort subscription matches every publisher, and of a camera only the newest image counts.
IMAGE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
DETECTIONS_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# Most cameras are 16:9; a first frame of another aspect compiles its own input shape when it comes.
WARM_UP_SIZE = (720, 1280)
REPORT_PERIOD_S = 10.0
DETECTOR_LOG = logging.getLogger("yolo_trt_node.detector")
REPEAT_ERROR_AFTER_S = 5.0
# How long a signal may wait to be noticed while nothing happens.
SPIN_PERIOD_S = 0.1


@dataclass
class Counters:
    """What happened since the last report."""

    received: int = 0
    dropped: int = 0
    unreadable: int = 0
    published: int = 0
    ages_s: list[float] = field(default_factory=list)
    inference_s: list[float] = field(default_factory=list)


class RosLog(logging.Handler):
    """Passes what the detector logs (engine builds, fallbacks) on to the node's log."""

    def __init__(self, node: LifecycleNode) -> None:
        """Log through a node."""
        super().__init__(logging.INFO)
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one line on; rclpy wants each severity on a line of its own."""
        logger = self._node.get_logger()
        if record.levelno >= logging.ERROR:
            logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            logger.warning(record.getMessage())
        else:
            logger.info(record.getMessage())


class DetectorNode(LifecycleNode):
    """Publishes the objects in the newest camera image.

    Topics (relative, so that remaps and namespaces work):
        ``image`` in, ``sensor_msgs/Image``, best effort;
        ``detections`` out, ``vision_msgs/Detection2DArray``, reliable, one message an image, with its header;
        ``label_info`` and ``vision_info`` out, latched;
        ``annotated`` out, ``sensor_msgs/Image``, built only while somebody listens.
    """

    def __init__(self, **arguments: object) -> None:
        """Declare the parameters; everything else waits for the configure transition."""
        super().__init__("yolo_detector", **arguments)
        self._complaints = parameters.declare(self)
        self._detector: Detector | None = None
        self._worker: NewestFirst[Image] | None = None
        self._subscription: Subscription | None = None
        self._outputs: dict[str, LifecyclePublisher] = {}
        self._counters = Counters()
        self._last_error = ("", Time())
        self._log_handler = RosLog(self)
        self._report_timer = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self._answer_forbidden_transitions()

    @property
    def autostart(self) -> bool:
        """Whether the node is to configure and activate itself."""
        return bool(self.get_parameter("autostart").value)

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
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _transition(self, name: str, *steps: Callable[[], object]) -> TransitionCallbackReturn:
        """Run a transition's steps; rclpy itself would swallow an exception without a word."""
        try:
            for step in steps:
                step()
        except (ModelError, ValueError) as error:
            self.get_logger().error(f"{name} failed: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(f"{name} failed in an unforeseen way:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _answer_forbidden_transitions(self) -> None:
        """Answer a transition that the state does not allow with a refusal.

        rclpy lets it raise inside the service, and whoever asked waits for an answer for ever.
        """
        service = self._service_change_state
        change_state = service.callback

        def guarded(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except Exception as error:
                wanted = request.transition.label or request.transition.id
                self.get_logger().error(f"transition {wanted} refused: {str(error).splitlines()[0]}")
                response.success = False
                return response

        service.callback = guarded

    def _configure(self) -> None:
        if self._complaints:
            raise ValueError(
                "; ".join(self._complaints.values()) + ". Set it (`ros2 param set`) and configure again"
            )
        given = parameters.values(self)
        if not given["model"]:
            raise ValueError(
                "no model: set the parameter model to the path of an ONNX file (model:=/path/to/model.onnx "
                "in the launch file, or `ros2 param set`), then configure again"
            )
        DETECTOR_LOG.setLevel(logging.INFO)
        DETECTOR_LOG.addHandler(self._log_handler)
        detector = Detector.load(str(given["model"]), parameters.detector_options(given))
        try:
            shape = detector.prepare(*WARM_UP_SIZE)
        except Exception as error:
            raise ModelError(f"{detector.path}: the model loads but does not run: {error}") from error
        self._detector = detector
        for topic, kind, qos in (
            ("detections", Detection2DArray, DETECTIONS_QOS),
            ("label_info", LabelInfo, LATCHED_QOS),
            ("vision_info", VisionInfo, LATCHED_QOS),
            ("annotated", Image, DETECTIONS_QOS),
        ):
            self._outputs[topic] = self.create_lifecycle_publisher(kind, topic, qos)
        self.get_logger().info(
            f"loaded {detector.path} on {detector.backend} ({detector.backend_reason}), precision "
            f"{detector.precision}: {len(detector.card.names)} classes, "
            f"input {shape[0]}x{shape[1]} for 16:9 images, score threshold {detector.score_threshold:g}"
        )

    def _activate(self) -> None:
        self._counters = Counters()
        self._worker = NewestFirst(self._process)
        self._subscription = self.create_subscription(Image, "image", self._on_image, IMAGE_QOS)
        self._report_timer = self.create_timer(REPORT_PERIOD_S, self._report)
        self._publish_info()
        self.get_logger().info(
            f"active: listening on {self._subscription.topic_name}, "
            f"publishing {self._outputs['detections'].topic_name}"
        )

    def _deactivate(self) -> None:
        # First the source, then the worker: nothing is left that could start a frame.
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._report_timer is not None:
            self.destroy_timer(self._report_timer)
            self._report_timer = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _release(self) -> None:
        self._deactivate()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        self._detector = None
        DETECTOR_LOG.removeHandler(self._log_handler)

    def stop(self) -> None:
        """Stop detecting and give everything back, before the node is destroyed."""
        self._release()

    # --- Images ---------------------------------------------------------------------------------------------

    def _on_image(self, message: Image) -> None:
        self._counters.received += 1
        if self._worker is not None and self._worker.put(message):
            self._counters.dropped += 1

    def _process(self, message: Image) -> None:
        """Detect in one image and publish; in the worker's thread, where nothing may escape."""
        try:
            detector = self._detector
            if detector is None:
                return
            pixels = to_bgr(message)
            (detections,) = detector.detect([pixels])
            self._outputs["detections"].publish(detection_array(message.header, detections))
            now = self.get_clock().now()
            counters = self._counters
            counters.published += 1
            counters.ages_s.append((now - Time.from_msg(message.header.stamp)).nanoseconds / 1e9)
            counters.inference_s.append(detections.timing["inference"])
            self._publish_annotated(message.header, pixels, detections, detector)
        except ImageError as error:
            self._counters.unreadable += 1
            self._complain(f"{self.resolve_topic_name('image')}: {error}")
        except Exception:
            self._counters.unreadable += 1
            self._complain(f"an image could not be processed:\n{traceback.format_exc()}")

    def _publish_annotated(
        self, header: Header, pixels: Pixels, detections: Detections, detector: Detector
    ) -> None:
        publisher = self._outputs["annotated"]
        if publisher.get_subscription_count():
            publisher.publish(image_message(header, draw_detections(pixels, detections, detector.card.names)))

    def _publish_info(self) -> None:
        detector = self._detector
        if detector is None:
            return
        header = Header(stamp=self.get_clock().now().to_msg())
        self._outputs["label_info"].publish(label_info(header, detector.card, detector.score_threshold))
        self._outputs["vision_info"].publish(
            vision_info(
                header,
                f"{detector.path.name} ({detector.backend})",
                self.resolve_topic_name("label_info"),
            )
        )

    # --- Saying what happens --------------------------------------------------------------------------------

    def _complain(self, text: str) -> None:
        """Log an error; the same one again only after a while, since a broken camera repeats it at 30 Hz."""
        now = self.get_clock().now()
        last, when = self._last_error
        if text != last or (now - when).nanoseconds / 1e9 > REPEAT_ERROR_AFTER_S:
            self._last_error = (text, now)
            self.get_logger().error(text)

    def _report(self) -> None:
        counters, self._counters = self._counters, Counters()
        topic = self.resolve_topic_name("image")
        if not counters.received:
            publishers = self.count_publishers(topic)
            self.get_logger().warning(
                f"no image on {topic} for {REPORT_PERIOD_S:g} s; it has {publishers} publisher"
                + ("s" if publishers != 1 else "")
                + ("" if publishers else ": check the camera and the remapping of image")
            )
            return
        text = (
            f"{topic}: {counters.received} images in {REPORT_PERIOD_S:g} s, {counters.published} answered, "
        )
        text += f"{counters.dropped} dropped for newer ones, {counters.unreadable} unreadable"
        if counters.published:
            age, inference = (
                1e3 * statistics.median(values) for values in (counters.ages_s, counters.inference_s)
            )
            text += f"; age at publication {age:.0f} ms, inference {inference:.0f} ms (medians)"
        self.get_logger().info(text)

    # --- Parameters -----------------------------------------------------------------------------------------

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """Check a set of changes as a whole; what is live takes effect at once."""
        specs = {spec.name: spec for spec in parameters.PARAMETERS}
        ours = [parameter for parameter in changed if parameter.name in specs]
        try:
            if self._detector is not None:
                for parameter in ours:
                    if not specs[parameter.name].live:
                        raise ValueError(
                            f"{parameter.name} takes effect when the node is configured: deactivate and "
                            "clean up first (`ros2 lifecycle set`), then set it and configure again"
                        )
            options = parameters.detector_options(parameters.values(self, ours))
            if self._detector is not None:
                self._detector.set_options(
                    score_threshold=options.score_threshold,
                    iou_threshold=options.iou_threshold,
                    max_det=options.max_det,
                    classes=options.classes,
                    tiling=options.tiling,
                    tile_overlap=options.tile_overlap,
                )
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for parameter in ours:
            self._complaints.pop(parameter.name, None)
        if self._subscription is not None and any(p.name == "score_threshold" for p in ours):
            self._publish_info()
        return SetParametersResult(successful=True)


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    # rclpy's own handlers shut the context down beside the running executor, which has been seen to hang in
    # Fast DDS. A flag that the loop reads keeps the order: stop the worker, destroy the node, shut down.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    node = DetectorNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        while not stopping and rclpy.ok():
            try:
                executor.spin_once(timeout_sec=SPIN_PERIOD_S)
            except Exception:
                # rclpy raises what a service callback raised, such as a transition that the state forbids.
                node.get_logger().error(f"a request failed:\n{traceback.format_exc()}")
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
