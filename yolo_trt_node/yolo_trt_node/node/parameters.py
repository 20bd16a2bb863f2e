"""The node's parameters: every option declared to ROS, and the rules that only ROS has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidTopicNameException,
)
from rclpy.validate_topic_name import validate_topic_name

from yolo_trt_node.node_options import NODE_OPTIONS, Settings
from yolo_trt_node.options import Option, Value, Values

if TYPE_CHECKING:
    from rclpy.node import Node


def descriptor(option: Option) -> ParameterDescriptor:
    """Describe an option to ROS tools."""
    made = ParameterDescriptor(description=option.text)
    if option.choices:
        made.additional_constraints = option.expectation
    if option.range is not None:
        low, high = option.range
        if isinstance(option.default, float):
            made.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        else:
            made.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return made


def declare(node: Node, options: Sequence[Option] = NODE_OPTIONS) -> dict[str, str]:
    """Declare all parameters.

    A value given at start that does not fit (type or range) must not end the process: the parameter then
    stands at its default, and the complaint comes back, to be raised when the node is configured.

    Returns:
        Complaints by parameter name; empty when all is well.
    """
    complaints = {}
    for option in options:
        try:
            node.declare_parameter(option.name, option.default, descriptor(option))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            node.declare_parameter(option.name, option.default, descriptor(option), ignore_override=True)
            complaints[option.name] = f"parameter {option.name} must be {option.expectation}: {error}"
    return complaints


def values(node: Node, options: Sequence[Option] = NODE_OPTIONS) -> dict[str, Value]:
    """Return all parameters' values."""
    return {option.name: node.get_parameter(option.name).value for option in options}


def refuse_unless_live(changed: Values) -> None:
    """Check that parameters may change while a model is loaded.

    Raises:
        ValueError: one of them may not; it says when it may.
    """
    for option in NODE_OPTIONS:
        if option.name in changed and not option.live:
            raise ValueError(
                f"{option.name} takes effect when the node is configured: deactivate and clean up first "
                "(`ros2 lifecycle set`), then set it and configure again"
            )


def read_settings(given: Values) -> Settings:
    """Read and check all values, each and against each other, without a model.

    Raises:
        ValueError: a value is not allowed.
    """
    settings = Settings.read(given)
    camera_names(settings.node.cameras)
    return settings


def camera_names(cameras: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the cameras, or their topics; one empty text for the only one.

    Raises:
        ValueError: a name is no topic name, or stands twice.
    """
    for name in cameras:
        try:
            validate_topic_name(name)
        except (InvalidTopicNameException, ValueError) as error:
            raise ValueError(f"cameras holds {name!r}, which cannot be a topic: {error}") from error
    if len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras names one twice: {', '.join(cameras)}")
    return tuple(cameras) or ("",)
