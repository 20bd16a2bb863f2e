"""Reading a recipe or a comparison: files that extend others, changes from the command line, clear errors."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from yolo_compress.config.base import SectionType
from yolo_compress.config.sections import Comparison, Recipe
from yolo_compress.errors import UserError
from yolo_compress.yaml_files import parse_yaml, read_yaml

# Recipes and small models come with the package (links to config/compress and models), so that
# `yolo-compress run demo` works anywhere.
SHIPPED = Path(__file__).parents[1]
_RECIPES = SHIPPED / "recipes"

# What the arms of a comparison may differ in; the rest is the protocol.
ARM_KEYS = (*Recipe.stage_sections(), "input_size")


@dataclass(frozen=True)
class Arms:
    """A comparison with the recipes that it comes down to.

    Attributes:
        comparison: as written.
        base: what all arms share; its output is the comparison's.
        recipes: of each arm, for the comparison's first seed.
    """

    comparison: Comparison
    base: Recipe
    recipes: dict[str, Recipe]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: YAML file, or the name of a shipped recipe, such as ``demo``. ``extends: other.yaml`` takes
            another recipe, named relative to this file, and changes the keys that follow; ``${NAME}`` stands
            for an environment variable.
        overrides: ``key=value`` with dots between nested keys and a YAML value, as in
            ``distill.train.epochs=5``.

    Raises:
        UserError: the file cannot be read, or a key or value is wrong; the message names each and what is
            allowed.
    """
    path = recipe_file(path)
    content = _read(path)
    if "arms" in content:
        raise UserError(f"{path} is a comparison of several arms; use it with `yolo-compress compare`")
    for override in overrides:
        _override(content, override)
    return _recipe(content, f"the recipe {path}")


def recipe_file(path: Path) -> Path:
    """Return a recipe's file: the one of this path, or else the shipped recipe of this name.

    Raises:
        UserError: there is neither; the message lists the shipped ones.
    """
    if os.path.isfile(path):  # unlike Path's, False for whatever no file can be called
        return path
    shipped = _RECIPES / f"{path.stem}.yaml"
    if path.name in (path.stem, shipped.name) and len(path.parts) == 1 and os.path.isfile(shipped):
        return shipped
    if os.path.isdir(path) or path.suffix or len(path.parts) > 1:
        return path  # reading it says what is wrong
    names = ", ".join(sorted(file.stem for file in _RECIPES.glob("*.yaml")))
    raise UserError(f"there is no file {path}, and no shipped recipe of that name; shipped are: {names}")


def recipe_of(content: Mapping[str, Any], overrides: Sequence[str], what: str) -> Recipe:
    """Check a recipe that comes from a program and not from a file.

    Args:
        content: its keys and values.
        overrides: as in `load_recipe`.
        what: it is, for messages.

    Raises:
        UserError: as in `load_recipe`.
    """
    changed = deepcopy(dict(content))
    for override in overrides:
        _override(changed, override)
    return _recipe(changed, what)


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> Arms:
    """Read and check a comparison and the recipe of each of its arms.

    Args:
        path: YAML file, see `Comparison`.
        overrides: as in `load_recipe`; a key that is none of the comparison's is one of the base recipe.

    Raises:
        UserError: as in `load_recipe`; also when the arms' budgets of epochs differ.
    """
    path = recipe_file(path)
    content = _read(path)
    if "arms" not in content:
        raise UserError(
            f"{path} has no `arms:`, so it is no comparison; a recipe is done by `yolo-compress run`"
        )
    to_base = []
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] in Comparison.model_fields:
            _override(content, override)
        else:
            to_base.append(override)
    comparison = _validate(Comparison, content, f"the comparison {path}")
    if comparison.records is not None:
        comparison = comparison.model_copy(update={"records": path.parent / comparison.records})
    shared = _read(path.parent / comparison.base)
    _merge(shared, comparison.set)
    for override in to_base:
        _override(shared, override)
    shared["output"] = str(comparison.output)
    base = _recipe(shared, f"the recipe {comparison.base} with what {path} sets")
    shared["seed"] = comparison.seeds[0]
    recipes = {}
    for name, changes in comparison.arms.items():
        for key in changes:
            if key.partition(".")[0] not in ARM_KEYS:
                raise UserError(
                    f"{path}: the arm {name} changes {key}, but arms differ only in {', '.join(ARM_KEYS)}; "
                    "what holds for all belongs under `set:`"
                )
        arm = deepcopy(shared)
        _merge(arm, changes)
        recipes[name] = _recipe(arm, f"the arm {name} of {path}")
    epochs = {name: recipe.epochs for name, recipe in recipes.items()}
    if len(set(epochs.values())) > 1:
        raise UserError(
            f"{path}: all arms must train for the same number of epochs, but they train for "
            + ", ".join(f"{name} {number}" for name, number in epochs.items())
        )
    return Arms(comparison, base, recipes)


def load_section(section: type[SectionType], overrides: Sequence[str], what: str) -> SectionType:
    """Make one section out of ``key=value`` texts alone.

    Raises:
        UserError: a key or value is wrong; the message names each and what is allowed.
    """
    content: dict[str, Any] = {}
    for override in overrides:
        _override(content, override)
    return _validate(section, content, what)


def _found(model: str) -> str:
    """Return a model's path: as it is where that is a file, else among the shipped ones (models/...)."""
    shipped = SHIPPED / model
    return str(shipped) if not os.path.exists(model) and os.path.isfile(shipped) else model


def _recipe(content: dict[str, Any], what: str) -> Recipe:
    """Validate a recipe, find its models and fill the placeholders of its output folder."""
    for name in Recipe.stage_sections():
        section = content.get(name)
        if isinstance(section, dict) and isinstance(section.get("model"), str):
            section["model"] = _found(section["model"])
    recipe = _validate(Recipe, content, what)
    try:
        output = str(recipe.output).format(
            model=Path(recipe.teacher.model).stem, input_size=recipe.input_size
        )
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{what} does not fit:\n"
            f"  output: may hold {{model}} and {{input_size}}, not what {str(recipe.output)!r} does"
        ) from error
    return recipe.model_copy(update={"output": Path(output)})


def _validate(section: type[SectionType], content: Mapping[str, Any], what: str) -> SectionType:
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{what} does not fit:\n" + "\n".join(_explain(error, section))) from error


def _read(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML mapping, on top of the one that it extends."""
    content = read_yaml(path, "the recipe")
    if path.resolve() in extended_by:
        raise UserError(f"the recipe {path} extends itself")
    if not isinstance(content, dict):
        raise UserError(
            f"the recipe {path} must be a mapping of keys to values, as in config/compress/demo.yaml"
        )
    content = _expand(content, path)
    extended = content.pop("extends", None)
    whole = {} if extended is None else _read(path.parent / str(extended), (*extended_by, path.resolve()))
    _merge(whole, content)
    return whole


def _expand(value: Any, path: Path) -> Any:
    """Replace ``${NAME}`` in all texts by the environment's value."""

    def known(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"{path} uses ${{{match[1]}}}; say what it is: {match[1]}=... yolo-compress ...")
        return os.environ[match[1]]

    if isinstance(value, dict):
        return {key: _expand(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, path) for item in value]
    return re.sub(r"\$\{(\w+)\}", known, value) if isinstance(value, str) else value


def _merge(content: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put changes into nested mappings; keys may be nested or joined by dots, null takes a section away."""
    for name, value in changes.items():
        section, last = _section_of(content, str(name))
        if isinstance(value, Mapping):
            if not isinstance(section.get(last), dict):
                section[last] = {}
            _merge(section[last], value)
        else:
            section[last] = value


def _override(content: dict[str, Any], text: str) -> None:
    """Set the nested key that ``text`` (``key.key=value``) names."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UserError(
            f"override {_short(text)} is not of the form key=value, for instance distill.train.epochs=5"
        )
    try:
        parsed = parse_yaml(value, "the value")
    except UserError as error:
        raise UserError(f"override {_short(text)}: the value is no valid YAML") from error
    section, last = _section_of(content, name)
    section[last] = parsed


def _section_of(content: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds the last part of a dotted name, and that part."""
    *parents, last = name.split(".")
    section: Any = content
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"{name}: {parent} is a value, not a section")
    return section, last


def _explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Turn each of pydantic's findings into one line that names the key and what is allowed there."""
    lines = []
    for finding in error.errors():
        location = finding["loc"]
        key = ".".join(str(part) for part in location if part != "[key]")
        if finding["type"] == "extra_forbidden":
            section = _section_at(root, location[:-1])
            allowed = list(section.model_fields) if section else []
            near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            lines.append(f"  {key}: unknown key; {hint}allowed here: {', '.join(allowed)}")
        elif finding["type"] == "missing":
            lines.append(f"  {key}: missing ({_description_of(root, location)})")
        elif finding["type"] == "value_error":
            lines.append(f"  {key + ': ' if key else ''}{finding['ctx']['error']}")
        else:
            message = finding["msg"][0].lower() + finding["msg"][1:]
            lines.append(f"  {key}: {message}, not {_short(finding['input'])}")
    return lines


def _short(value: Any) -> str:
    """Render a value in a line, whatever it is."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _section_at(root: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the section class that lies at a location below ``root``; None within a list or a value."""
    section: type[BaseModel] | None = root
    for part in location:
        if section is None or str(part) not in section.model_fields:
            return None
        annotation = section.model_fields[str(part)].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return section


def _description_of(root: type[BaseModel], location: Sequence[int | str]) -> str:
    parent = _section_at(root, location[:-1])
    if parent is None:
        return "a value of its list"
    field = parent.model_fields[str(location[-1])]
    section = _section_at(root, location)
    keys = ", ".join(section.model_fields) if section else ""
    return field.description or f"a section with {keys}"
