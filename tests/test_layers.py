"""The layers of both packages: no import circle, and no arrow from below to above.

Imports are read from the code, those inside functions too. ARCHITECTURE shows the same table.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From below to above: a module imports from its own row and from those before it. A name stands for a module
# of the package, or for a folder with all that is in it.
LAYERS = {
    "yolo_compress": (
        ("errors", "files", "interrupts", "packages"),
        ("yaml_files", "ultralytics_env", "config"),
        ("versions", "devices", "checkpoints", "data"),
        ("measure",),
        ("export",),
        ("training",),
        ("stages",),
        ("pruning", "sparsity", "distillation", "dense"),
        ("run",),
        ("compare", "verdicts", "report", "readiness", "compress", "cluster", "records", "ready"),
        ("demo", "doctor", "cli"),
    ),
    "yolo_trt_node": (
        ("options", "boxes", "dds", "memory", "stop_signals"),
        ("images", "cdr", "drawing", "projection"),
        ("detector", "tracking"),
        ("health",),
        ("node_options",),
        ("params_file", "launch_arguments"),
        ("replay", "build_engine", "time_model", "node"),
        ("launching",),
    ),
}
PLACES = {"yolo_compress": ROOT / "yolo_compress", "yolo_trt_node": ROOT / "yolo_trt_node/yolo_trt_node"}


def modules(package: str) -> dict[str, Path]:
    """Return the modules of a package by their dotted names without the package's."""
    names = {}
    for path in PLACES[package].rglob("*.py"):
        parts = path.relative_to(PLACES[package]).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(package: str, *, at_the_top_only: bool = False) -> dict[str, set[str]]:
    """Return which modules of its package each module imports; the package's own face is left out."""
    known = modules(package)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        hidden = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, ast.FunctionDef)
            or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.dump(outer.test))
            for inner in ast.walk(outer)
        }
        wanted: set[str] = set()
        for node in ast.walk(tree):
            if at_the_top_only and id(node) in hidden:
                continue
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path} imports relatively"
                # The folder's own module is run, too, before what is in it.
                wanted |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        inside = {one.removeprefix(f"{package}.") for one in wanted if one.startswith(f"{package}.")}
        if name:
            found[name] = {
                one for one in inside & known.keys() if one != name and not name.startswith(f"{one}.")
            }
    return found


def row(package: str, module: str) -> int:
    """Return the number of the row in which a module stands, 0 the lowest."""
    (number,) = [n for n, names in enumerate(LAYERS[package]) if module.split(".")[0] in names]
    return number


@pytest.mark.parametrize("package", LAYERS)
def test_every_module_has_its_layer(package: str) -> None:
    there = {name.split(".")[0] for name in modules(package) if name and name != "__main__"}
    named = [name for names in LAYERS[package] for name in names]
    assert there == set(named)
    assert len(named) == len(set(named))


@pytest.mark.parametrize("package", LAYERS)
def test_no_arrow_points_up(package: str) -> None:
    up = [
        f"{module} -> {other}"
        for module, others in imports(package).items()
        for other in others
        if row(package, other) > row(package, module)
    ]
    assert not up


@pytest.mark.parametrize("package", LAYERS)
def test_no_import_goes_in_a_circle(package: str) -> None:
    try:
        TopologicalSorter(imports(package, at_the_top_only=True)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_arrow_that_points_up_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "low.py").write_text("def f():\n    import package.high\n")
    (tmp_path / "high.py").write_text("from package import low\n")
    monkeypatch.setitem(PLACES, "package", tmp_path)
    monkeypatch.setitem(LAYERS, "package", (("low",), ("high",)))
    assert imports("package") == {"low": {"high"}, "high": {"low"}}
    with pytest.raises(AssertionError):
        test_no_arrow_points_up("package")
    test_no_import_goes_in_a_circle("package")
    (tmp_path / "low.py").write_text("import package.high\n")
    with pytest.raises(pytest.fail.Exception, match="low"):
        test_no_import_goes_in_a_circle("package")


@pytest.mark.parametrize("package", LAYERS)
def test_no_module_is_longer_than_one_reads(package: str) -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in PLACES[package].rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > 450}


@pytest.mark.parametrize("package", LAYERS)
def test_architecture_shows_the_same_table(package: str) -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    shown = text.split(f"<!-- layers of {package} -->")[1].split("\n\n")[0].strip().splitlines()
    rows = [" ".join(f"`{name}`" for name in names) for names in LAYERS[package]]
    assert shown == [f"{number}. {names}" for number, names in enumerate(rows, 1)]


@pytest.mark.parametrize("package", LAYERS)
def test_the_flying_side_never_imports_the_offline_side(package: str) -> None:
    forbidden = {
        "yolo_compress": ("yolo_trt_node.node", "rclpy"),
        "yolo_trt_node": ("yolo_compress", "torch", "ultralytics"),
    }[package]
    for path in PLACES[package].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                met = [one for one in forbidden if name == one or name.startswith(f"{one}.")]
                assert not met, f"{path} imports {name}"
