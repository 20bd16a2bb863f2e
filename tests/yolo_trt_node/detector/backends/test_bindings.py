"""The fake TensorRT offers what the real Python bindings offer, of each version, and nothing more.

The bindings are imported behind libraries that have nothing but their C symbols: no GPU, no driver and none
of TensorRT's gigabytes. The wheels (1 MB each) come with the set-up; where one could not be had, its test
skips.
"""

import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import fake_tensorrt

SYMBOLS = (
    *(f"create{name}_INTERNAL" for name in ("InferBuilder", "InferRuntime", "InferRefitter")),
    *(f"createNvOnnx{name}_INTERNAL" for name in ("Parser", "ParserRefitter")),
    *("getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins", "getNvOnnxParserVersion"),
)
WHEELS = {
    "10.1.0": "tensorrt_cu12_bindings",
    "10.3.0": "tensorrt_cu12_bindings",
    "10.13.3.9": "tensorrt_cu13_bindings",
    "11.4.0.106": "tensorrt_cu13_bindings",
}
# What our code asks the module for, to tell one TensorRT from another.
QUESTIONS = ("IRuntimeCache", "ComputeCapability")
FLAGS = ("FP16", "INT8", "BF16", "TF32", "REQUIRE_USER_ALLOCATION")

# Prints what a module offers: public names of each class with their documentation, and enum values.
TELL = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
classes = {
    name: {entry: getattr(value, entry).__doc__ or "" for entry in dir(value) if not entry.startswith("_")}
    for name, value in vars(module).items() if isinstance(value, type)
}
values = {
    name: {entry: int(member) for entry, member in value.__members__.items()}
    for name, value in vars(module).items() if hasattr(value, "__members__")
}
print(json.dumps({"version": module.__version__, "classes": classes, "values": values, "names": dir(module)}))
"""


def ask(module: str, environment: dict) -> SimpleNamespace:
    ran = subprocess.run(
        [sys.executable, "-c", TELL, module], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return SimpleNamespace(**json.loads(ran.stdout))


@pytest.fixture(scope="module", params=[*WHEELS, "rtx"])
def real(request, tmp_path_factory):
    """A real module's surface, and whether it is TensorRT-RTX."""
    if request.param == "rtx":
        if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            pytest.skip("TensorRT-RTX is not installed")
        return ask("tensorrt_rtx_bindings", {}), True
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheels = list(Path(sys.prefix, "wheels").glob(f"{WHEELS[request.param]}-{request.param}-{python}-*.whl"))
    if not wheels:
        pytest.skip(f"set-up could not download {WHEELS[request.param]} {request.param}")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    folder = tmp_path_factory.mktemp("bindings")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(folder)
    (folder / "stub.c").write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in SYMBOLS))
    major = request.param.split(".")[0]
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run(["cc", *options, str(folder / "stub.c")], check=True)
    environment = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}
    return ask("tensorrt_bindings", environment), False


@pytest.fixture
def fake(real):
    """The fake of the same version."""
    module: dict = {}
    fake_tensorrt.populate(module, real[0].version, rtx=real[1])
    return SimpleNamespace(**module)


def test_has_every_name_of_the_fake(real):
    surface, rtx = real
    missing = {
        f"{name}.{entry}"
        for name, entries in fake_tensorrt.surface(rtx=rtx).items()
        for entry in entries
        if entry not in surface.classes.get(name, {})
    }

    assert len(fake_tensorrt.surface(rtx=rtx)) > 15
    assert not missing


def parameters(documentation: str) -> list[tuple[int, int]]:
    """Read the overloads of a method from pybind11's text: fewest and most arguments, without self."""
    found = []
    for listed in re.findall(r"^(?:\d+\. )?\w+\((self.*)\) -> ", documentation, re.MULTILINE):
        # Types in brackets and default values hold commas too.
        bare = re.sub(r"<[^<>]*>", "", listed)
        while (shorter := re.sub(r"\[[^\[\]]*\]|\([^()]*\)", "", bare)) != bare:
            bare = shorter
        arguments = bare.split(", ")[1:]
        found.append((sum("=" not in text for text in arguments), len(arguments)))
    return found


def test_takes_the_arguments_that_the_fake_takes(real):
    surface, rtx = real
    checked = 0
    for name, kind in fake_tensorrt.classes(rtx=rtx).items():
        for entry, method in inspect.getmembers(kind, inspect.isfunction):
            # A class of ours to derive from, whose methods TensorRT calls, has no fixed signature there.
            overloads = parameters(surface.classes.get(name, {}).get(entry, ""))
            if entry.startswith("_") or not overloads:
                continue
            needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
            count = len(needed) - 1
            assert any(low <= count <= high for low, high in overloads), f"{name}.{entry}: {overloads}"
            checked += 1
    assert checked > 20


def test_has_the_flags_and_classes_that_tell_versions_apart_as_the_fake_has(real, fake):
    surface, _ = real

    assert "init_libnvinfer_plugins" in surface.names
    assert {name: name in surface.names for name in QUESTIONS} == {
        name: hasattr(fake, name) for name in QUESTIONS
    }
    assert {name: name in surface.values["BuilderFlag"] for name in FLAGS} == {
        name: hasattr(fake.BuilderFlag, name) for name in FLAGS
    }


def test_counts_its_network_flags_as_the_fake(real, fake):
    surface, _ = real
    flags = {flag.name: int(flag) for flag in fake.NetworkDefinitionCreationFlag}

    assert flags.items() <= surface.values["NetworkDefinitionCreationFlag"].items()
