"""ROS 2 parameter files, read without ROS: whose sections they hold, and what one node gets of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolo_trt_node.options import Option, Value, given_arguments, nearest

DEFAULT_NODE = "/yolo_detector"
"""The full name of the node where nobody names it otherwise."""

_KEY = "ros__parameters"
_MOST_BYTES = 1_000_000
# What any node may have beside its own parameters.
_EVERY_NODES = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")


class NodeSection(NamedTuple):
    """One section of a parameter file.

    Attributes:
        node: whom it is for, as the file writes it: a full name, or a pattern such as ``/**``.
        values: its parameters, their names dotted.
    """

    node: str
    values: dict[str, Any]

    def fits(self, full_name: str) -> bool:
        """Whether it is for the node of a full name (``/uav1/yolo_detector``)."""
        pattern = re.escape(self.node).replace(r"/\*\*", r"(/[^/]+)*").replace(r"/\*", r"/[^/]+")
        return re.fullmatch(pattern, full_name) is not None


def read_sections(path: str | Path) -> list[NodeSection]:
    """Read a parameter file.

    Raises:
        ValueError: it cannot be read, or holds no parameters; the message names the file and a remedy.
    """
    file = Path(path).expanduser()
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"{path} is larger than 1 MB, which no parameter file is")
        text = raw.decode()
        # ROS takes no aliases either; with them a few lines could stand for gigabytes.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError(f"{path} uses YAML aliases (*name), which parameter files may not")
        found = list(_sections(yaml.safe_load(text), ""))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not found:
        raise ValueError(
            f"{path} holds no parameters: they belong under a node's name (/** for any) and {_KEY}, as in "
            "the package's config/detect.yaml"
        )
    return found


def _sections(content: Any, name: str) -> Iterator[NodeSection]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key == _KEY and isinstance(value, Mapping):
            yield NodeSection(name or "/**", dict(_flat(value, "")))
        else:
            yield from _sections(value, f"{name}/{str(key).strip('/')}")


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def values_for(sections: Sequence[NodeSection], node: str, path: str | Path) -> dict[str, Any]:
    """Return what a node gets of a file; what is for its name wins over what is for any.

    Args:
        sections: of the file.
        node: its full name.
        path: of the file, for the message.

    Raises:
        ValueError: no section is for it; the message names those that there are.
    """
    ours = [section for section in sections if section.fits(node)]
    if not ours:
        others = ", ".join(dict.fromkeys(section.node for section in sections))
        raise ValueError(
            f"{path} has parameters for {others}, none for this node, which is {node}: rename the section or "
            "the node; /** in the file means any node"
        )
    found: dict[str, Any] = {}
    for section in sorted(ours, key=lambda section: "*" not in section.node):
        found |= section.values
    return found


def meant_for_others(arguments: Sequence[str], node: str) -> str:
    """Say which parameter files of a command line hold nothing for a node; empty where all hold something.

    ROS itself ignores them without a word.

    Args:
        arguments: of the process; files follow ``--params-file``.
        node: full name of the node.
    """
    found = []
    for flag, path in pairwise(arguments):
        if flag == "--params-file":
            try:
                values_for(read_sections(path), node, path)
            except ValueError as error:
                found.append(str(error))
    return "; ".join(found)


def known_values(found: Mapping[str, Any], options: Iterable[Option], path: str | Path) -> dict[str, Value]:
    """Return those of a file's values that belong to options, each checked.

    Args:
        found: as `values_for` gives them.
        options: all that there are.
        path: of the file, for the messages.

    Raises:
        ValueError: a name is none of the options', or a value is not allowed.
    """
    by_name = {option.name: option for option in options}
    for name, value in found.items():
        if name in by_name:
            try:
                by_name[name].check(value)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        elif not _EVERY_NODES.fullmatch(name):
            raise ValueError(f"{path}: there is no parameter {name}{nearest(name, by_name)}")
    return {name: value for name, value in found.items() if name in by_name}


def add_params_file(parser: argparse.ArgumentParser) -> None:
    """Let a command line take a parameter file, which `option_values` reads."""
    parser.add_argument(
        "--params-file",
        metavar="FILE",
        help="parameter file of the node, such as detect.yaml: its values hold where none is given here",
    )
    parser.add_argument(
        "--node-name",
        default=DEFAULT_NODE,
        metavar="NAME",
        help="full name of the node whose parameters are read from it; default: %(default)s",
    )


def option_values(given: argparse.Namespace, options: Sequence[Option]) -> dict[str, Value]:
    """Return what a command line and its ``--params-file`` say of options; the command line wins.

    The file may hold any parameter of the node; those that are none of ``options`` have no meaning here.

    Raises:
        ValueError: the file cannot be used.
    """
    from yolo_trt_node.node_options import NODE_OPTIONS  # the table is above the reading of files

    values: dict[str, Value] = {}
    if given.params_file:
        node = "/" + given.node_name.strip("/")
        found = values_for(read_sections(given.params_file), node, given.params_file)
        values = known_values(found, NODE_OPTIONS, given.params_file)
    mine = {option.name for option in options}
    return {name: value for name, value in values.items() if name in mine} | given_arguments(given, options)
