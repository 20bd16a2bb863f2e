"""Set-up says what is missing, and does again only what has changed."""

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "ros2_ws" / "bootstrap.py"


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_missing_tools_are_named_with_their_apt_packages(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda command: None)
    with pytest.raises(bootstrap.SetupError, match=r"apt-get install build-essential cmake") as raised:
        bootstrap.check_tools()
    assert "missing on this machine: cc, c++, cmake, make" in str(raised.value)


def test_missing_python_headers_name_the_package_of_this_python(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match=rf"python3\.{sys.version_info[1]}-dev"):
        bootstrap.check_tools()


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0)])
def test_other_pythons_are_refused_with_the_way_to_name_another(bootstrap, monkeypatch, version):
    monkeypatch.setattr(bootstrap.sys, "version_info", version)
    with pytest.raises(bootstrap.SetupError, match=r"needed is 3\.10 to 3\.12.*make PYTHON="):
        bootstrap.check_tools()


def test_a_ros_distro_without_its_prefix_is_an_error_not_a_fallback(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match="ROS_DISTRO is humble, but no prefix"):
        bootstrap.sourced_ros()


def test_without_ros_distro_the_wheels_are_used(bootstrap, monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    assert bootstrap.sourced_ros() is None


@pytest.mark.parametrize("package", ["foxglove_msgs", "tf2_msgs", "vision_msgs"])
def test_a_sourced_interface_package_is_found_and_our_own_build_is_not_taken_for_one(
    bootstrap, monkeypatch, tmp_path, package
):
    assert package in bootstrap.INTERFACES
    (tmp_path / "share" / package).mkdir(parents=True)
    (tmp_path / "share" / package / "package.xml").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert bootstrap.brought_by_ros(package)
    monkeypatch.setattr(bootstrap, "WORKSPACE", tmp_path.parent)
    assert not bootstrap.brought_by_ros(package)


def test_fingerprints_follow_content_and_names(bootstrap, tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    before = bootstrap.fingerprint([file])
    assert bootstrap.fingerprint([file]) == before
    file.write_text("2")
    assert bootstrap.fingerprint([file]) != before
    assert bootstrap.fingerprint(["x"]) != bootstrap.fingerprint(["y"])


def test_wheels_are_mended_to_this_machines_python(bootstrap, monkeypatch, tmp_path):
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    cmake = tmp_path / "share" / "pkg" / "cmake" / "export.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text(
        'set(x "/opt/python/cp311-cp311/include/python3.11;'
        '/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy")'
    )
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    bootstrap.mend_wheels()
    mended = cmake.read_text()
    assert "/opt/python" not in mended
    assert bootstrap.sysconfig.get_path("include") in mended
    assert f"{tmp_path}/lib/python3.11/site-packages/numpy" in mended


def test_every_pin_is_readable_and_torch_and_torchvision_are_both_pinned():
    pins = [
        line
        for line in (SCRIPT.parents[1] / "constraints.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert all("==" in pin for pin in pins)
    assert {"torch", "torchvision"} <= {pin.split("==")[0] for pin in pins}


def test_set_up_installs_no_file_of_a_pin_without_knowing_its_hash(bootstrap):
    known = bootstrap.entries(bootstrap.HASHES.read_text())
    root = SCRIPT.parents[1]
    pins = bootstrap.versions((root / "constraints.txt").read_text())
    wheels = bootstrap.versions((root / "tests" / "wheels.txt").read_text())
    assert len(pins) > 300
    assert len(wheels) > 4
    # A few pins are of packages that nothing asks for any more; what is asked for is checked at set-up.
    assert len([pin for pin in pins if pin not in known]) <= 2
    assert not [pin for pin in (*wheels, *bootstrap.BESIDE_ROS) if pin not in known]
    first = {*bootstrap.FIRST, *bootstrap.WITHOUT_WHEEL}
    assert {pin.split("==")[0] for pin in pins if pin in known} >= first


def test_what_has_no_hash_is_not_installed(bootstrap, monkeypatch):
    known = bootstrap.entries(
        "a_b==1.0 ; marker \\\n    --hash=sha256:12 \\\n    --hash=sha256:34\nc==2 \\\n    --hash=sha256:56\n"
    )
    assert bootstrap.with_hashes(["a-b==1.0"], known) == (
        "a-b==1.0 \\\n    --hash=sha256:12 \\\n    --hash=sha256:34\n"
    )
    with pytest.raises(bootstrap.SetupError, match=r"no hash of d==3, so it is not installed"):
        bootstrap.with_hashes(["c==2", "d==3"], known)


def test_what_pip_chose_is_read_from_its_report_without_the_projects_own(bootstrap):
    def entry(name, version, **where):
        return {"metadata": {"name": name, "version": version}, "download_info": where}

    report = {
        "install": [
            entry("Some_Package", "1", archive_info={}),
            entry("yolo-compress", "0", dir_info={"editable": True}),
            entry("torch", "2+cpu", archive_info={}),
        ]
    }
    assert bootstrap.chosen_in(report) == ["some-package==1", "torch==2+cpu"]


def test_every_package_is_installed_with_its_hashes_and_a_wrong_one_is_refused(
    bootstrap, monkeypatch, tmp_path
):
    """By pip itself, on a wheel made here."""
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        wheel.writestr(
            "tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny-1.dist-info/RECORD", "")
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "log")
    right = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    words = ("--no-index", "--find-links", tmp_path, "--target", tmp_path / "site")
    for digest, fits in (("0" * 64, False), (right, True)):
        known = {"tiny==1": f"    --hash=sha256:{digest}\n"}
        if fits:
            bootstrap.install_checked(Path(sys.executable), ["tiny==1"], known, *words)
        else:
            with pytest.raises(bootstrap.SetupError, match="THESE PACKAGES DO NOT MATCH THE HASHES"):
                bootstrap.install_checked(Path(sys.executable), ["tiny==1"], known, *words)
        assert (tmp_path / "site" / "tiny.py").is_file() == fits


def test_an_audit_says_what_is_known_and_what_could_not_be_asked(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    audit = importlib.import_module("audit")
    fault = {"id": "CVE-1", "fix_versions": ["2"]}
    unknown = {"name": "b", "skip_reason": "not found"}
    sound, faulty = ({"name": "a", "version": "1", "vulns": found} for found in ([], [fault]))
    assert audit.verdict([unknown]) == (
        "audit: this index has no database of faults; none of 1 packages could be asked for",
        2,
    )
    assert audit.verdict([sound, unknown])[1] == 0
    text, code = audit.verdict([faulty, unknown])
    assert "a 1: CVE-1, mended in 2\naudit: 1 known faults in 1 packages; 1 are not known" in text
    assert code == 1
