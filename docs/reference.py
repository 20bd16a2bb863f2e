"""The site's reference pages, made from the code each time the site is built (a hook of MkDocs).

They are written nowhere: MkDocs gets them as generated files, so that they cannot be older than the code.
``python docs/reference.py`` prints them.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin
from xml.etree import ElementTree

import typer
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}

# The node's programs, which are argparse's.
PROGRAMS = ("bag_detect", "bag_labels", "build_engine", "play_images", "record_bag", "time_model")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the files outside docs/ that pages link to."""
    from mkdocs.structure.files import File

    for name, page in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    linked = set()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((\.\./[^)#]+)\)", page.read_text()):
            file = (page.parent / target).resolve()
            if file.is_file() and not file.is_relative_to(ROOT / "docs"):
                linked.add(file)
    for file in sorted(linked):
        inside = f"files/{file.relative_to(ROOT)}"
        files.append(File.generated(config, inside, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to files outside docs/ at their copies in the site."""
    source = Path(page.file.src_path)
    depth = "../" * (len(source.parts) - 1)

    def inside(match: re.Match[str]) -> str:
        file = (ROOT / "docs" / source.parent / match[1]).resolve()
        if not file.is_file() or file.is_relative_to(ROOT / "docs"):
            return match[0]
        return f"]({depth}files/{file.relative_to(ROOT)})"

    return re.sub(r"\]\((\.\./[^)#]+)\)", inside, markdown)


def pages() -> dict[str, str]:
    """Return the reference pages by name."""
    makers: dict[str, Callable[[], Iterator[str]]] = {"commands": commands, "recipe": recipe, "node": node}
    makers["adapters"] = adapters
    return {name: "\n".join(make()) + "\n" for name, make in makers.items()}


def commands() -> Iterator[str]:
    """Give the help of every command and program."""
    from yolo_compress.cli import app

    group = typer.main.get_command(app)
    yield "# Commands"
    yield ""
    yield "## yolo-compress"
    yield ""
    yield from _command(group, "yolo-compress")
    yield "## Programs of the ROS package"
    yield ""
    yield "`ros2 run yolo_trt_node PROGRAM ...`, or the program itself where `.venv/env.sh` was sourced."
    for program in PROGRAMS:
        yield ""
        yield f"### {program}"
        yield ""
        yield "```text"
        yield _help_of(program).rstrip()
        yield "```"


def _command(command: Any, name: str) -> Iterator[str]:
    """Give a command's text, its arguments as a table, and its subcommands."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield f"### {name}"
        yield ""
    yield (command.help or "").strip()
    yield ""
    if command.epilog:
        yield f"`{command.epilog.removeprefix('Example: ')}`"
        yield ""
    rows = [row for row in map(_parameter, command.params) if row]
    if rows:
        yield "| | | default |"
        yield "|---|---|---|"
        yield from rows
        yield ""
    for word, part in inner.items():
        yield from _command(part, f"{name} {word}")


def _parameter(parameter: Any) -> str:
    """Give one argument as a table's row; nothing for --help."""
    if parameter.name == "help":
        return ""
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    text = _cell(getattr(parameter, "help", None) or "")
    default = parameter.default
    shown = f"`{default}`" if isinstance(default, str | int | float | Path) and default is not False else ""
    return f"| {names} | {text} | {shown} |"


def _help_of(program: str) -> str:
    """Return what ``PROGRAM --help`` prints."""
    inside = program if program in ("build_engine", "time_model") else f"replay.{program}"
    ended = subprocess.run(
        [sys.executable, "-m", f"yolo_trt_node.{inside}", "--help"],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.replace(f"{program}.py", program)


def recipe() -> Iterator[str]:
    """Give every key of a recipe, section by section."""
    from yolo_compress.config.sections import Recipe

    yield "# Recipe"
    yield ""
    yield "Every key, as `yolo-compress` checks it; unknown keys are errors. On the command line a nested key"
    yield "has dots: `prune.target.macs=0.33`."
    seen: set[type[BaseModel]] = set()

    def section(model: type[BaseModel], path: str) -> Iterator[str]:
        if model in seen:
            return
        seen.add(model)
        yield ""
        yield f"## {path or 'Top level'}"
        yield ""
        yield (model.__doc__ or "").strip().splitlines()[0]
        yield ""
        yield "| key | | takes | default |"
        yield "|---|---|---|---|"
        inner: list[tuple[type[BaseModel], str]] = []
        for name, field in model.model_fields.items():
            models = [kind for kind in _types(field.annotation) if _is_model(kind)]
            key = f"{path}.{name}" if path else name
            inner += [(kind, key) for kind in models]
            value = None if field.is_required() else field.get_default(call_default_factory=True)
            default = "required" if field.is_required() else "" if value is None else f"`{value}`"
            takes = "a section, below" if models else _cell(_name(field.annotation))
            cells = (f"`{name}`", field.description or "", takes, "" if models else _cell(default))
            yield f"| {' | '.join(cells)} |"
        for kind, key in inner:
            yield from section(kind, key)

    yield from section(Recipe, "")


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _types(annotation: object) -> Iterator[object]:
    """Give the types that an annotation is made of."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _types(argument)


def _name(annotation: object) -> str:
    """Say in words what a key takes."""
    if isinstance(annotation, type):
        return _WORDS.get(annotation, annotation.__name__)
    choices = [kind for kind in get_args(annotation) if kind is not type(None)]
    if choices and all(isinstance(choice, str | int) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    words = [_name(kind) for kind in choices]
    if words and get_origin(annotation) in (Union, UnionType):
        return " or ".join(words)
    return re.sub(r"\b(typing|pathlib|yolo_compress\.[\w.]*)\.", "", str(annotation))


def node() -> Iterator[str]:
    """Give every parameter of the node with its range, and every topic and service."""
    from yolo_trt_node.launch_arguments import DETECT_ARGUMENTS, REPLAY_ARGUMENTS
    from yolo_trt_node.node_options import NODE_OPTIONS

    yield "# The node"
    yield ""
    yield "## Parameters"
    yield ""
    yield "`config/detect.yaml` holds all of them with longer explanations; `ros2 param describe` shows the"
    yield "same on a running node. Those marked *live* may change between two images (`ros2 param set`), the"
    yield "others take effect when the node is configured."
    yield ""
    yield "| parameter | | takes | default |"
    yield "|---|---|---|---|"
    for option in NODE_OPTIONS:
        name = f"`{option.name}`" + (" *live*" if option.live else "")
        default = f"`{option.default}`" if option.default not in ("", [""]) else ""
        yield f"| {name} | {_cell(option.text)} | {_cell(option.expectation)} | {default} |"
    parameters = {option.name for option in NODE_OPTIONS}
    for file, arguments in (("detect.launch.py", DETECT_ARGUMENTS), ("replay.launch.py", REPLAY_ARGUMENTS)):
        yield ""
        yield f"## {file}"
        yield ""
        yield "The parameters are arguments of the same names; beside them:"
        yield ""
        yield "| argument | | default |"
        yield "|---|---|---|"
        for argument in arguments:
            if argument.name not in parameters:
                default = f"`{argument.default}`" if argument.default else ""
                choices = f" One of {', '.join(argument.choices)}." if argument.choices else ""
                yield f"| `{argument.name}` | {_cell(argument.text + choices)} | {default} |"
    yield ""
    yield "## Topics and services"
    yield ""
    yield "As the SROS 2 policy has them, which a test holds to the running node."
    yield ""
    yield "| | name | the node |"
    yield "|---|---|---|"
    policy = ElementTree.parse(ROOT / "config" / "sros2" / "policy.xml")
    words = {"publish": "publishes", "subscribe": "reads", "reply": "answers", "request": "asks"}
    for kind, plural in (("topic", "topics"), ("service", "services")):
        for group in policy.iter(plural):
            does = " and ".join(word for verb, word in words.items() if group.get(verb) == "ALLOW")
            for entry in group.iter(kind):
                yield f"| {kind} | `{entry.text}` | {does} |"


# The adapters of yolo_autonomy: launch file, program, and the module with its parameters.
ADAPTERS = (
    ("target", "target_selection", "target"),
    ("mavlink", "mavlink_target", "mavlink"),
    ("px4", "px4_target", "follow"),
    ("obstacles", "obstacle_cloud", "obstacles"),
    ("annotations", "image_annotations", "annotations"),
)


def adapters() -> Iterator[str]:
    """Give every parameter of the adapters to autopilots, planners and ground stations."""
    folder = str(ROOT / "ros2_ws" / "src" / "yolo_autonomy")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    yield "# The adapters"
    yield ""
    yield "Each is a node of `yolo_autonomy` with a launch file, `ros2 launch yolo_autonomy NAME.launch.py`,"
    yield "whose arguments have the parameters' names."
    for launch, program, module in ADAPTERS:
        yield ""
        yield f"## {launch}.launch.py: {program}"
        yield ""
        yield "| parameter | | default |"
        yield "|---|---|---|"
        table = importlib.import_module(f"yolo_autonomy.{module}").PARAMETERS
        for name, (default, text) in table.items():
            shown = f"`{default}`" if default not in ("", [""]) else ""
            yield f"| `{name}` | {_cell(text)} | {_cell(shown)} |"


def _cell(text: str) -> str:
    """Return a text as it may stand in a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print("\n\n".join(pages().values()))
