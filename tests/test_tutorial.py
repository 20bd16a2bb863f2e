"""The tutorial's lines are typed as they stand; `make tutorial` runs them."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()


@pytest.fixture(scope="module")
def typist():
    spec = importlib.util.spec_from_file_location("type_tutorial", ROOT / "docs" / "type_tutorial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_typed_whole_and_what_is_left_out_is_named(typist, monkeypatch):
    monkeypatch.setattr(typist.shutil, "which", lambda name: None)
    script = typist.typed(PAGE, Path("/hers"), here=False, epochs=3)
    subprocess.run(["bash", "-n"], input="\n".join(script), text=True, check=True)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    left_out = [line for line in script if "left out" in line]
    typed = [line for line in script if not line.startswith("echo ")]
    assert len(typed) + len(left_out) == sum(len(block.strip().splitlines()) for block in blocks)
    assert all("needs a board" in line or "needs ros2 launch" in line for line in left_out)
    assert "yolo-compress compress $DETECTOR --data $DATA --macs 0.33 --epochs 3 -o runs/mine" in typed
    assert any(line.startswith("bag_detect $BAG") for line in typed)
    assert not any("<" in line for line in typed)


def test_nothing_of_this_clone_is_found_from_the_new_one(typist, monkeypatch):
    monkeypatch.setenv("PATH", f"{ROOT}/.venv/bin:/usr/bin")
    monkeypatch.setenv("VIRTUAL_ENV", f"{ROOT}/.venv")
    environment = typist.outside()
    assert environment["PATH"] == "/usr/bin"
    assert "VIRTUAL_ENV" not in environment
