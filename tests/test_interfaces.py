"""Whatever vision_msgs and tf2_msgs this machine uses, they are wire-compatible with everybody else's."""

import json
from pathlib import Path

import pytest
import tf2_msgs.msg
import vision_msgs.msg
from ament_index_python.packages import get_package_share_directory
from rosbags.typesys import Stores, get_typestore

# REP-2016 type hashes of vision_msgs 4.1.1 as released for Jazzy. A definition that yields the
# same hash has the same fields in the same order.
HASHES = {
    "Point2D": "eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247",
    "Pose2D": "b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648",
    "BoundingBox2D": "008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f",
    "BoundingBox2DArray": "2464e82838009386d371b523211c21c91d74d313fcdd6788223c531d621cf691",
    "ObjectHypothesis": "51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "ObjectHypothesisWithPose": "41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "Classification": "f74db28d0eaef3afb78f48bf2161cd709a1383a0309d3454383b25be11345143",
    "Detection2D": "0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "Detection2DArray": "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "BoundingBox3D": "bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
    "BoundingBox3DArray": "a81938db9576b10c2eecd7c5a5da3eac496efd00221b25ed051dfbc81fb56da6",
    "Detection3D": "ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
    "Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "VisionClass": "1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
    "LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "VisionInfo": "95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
}


@pytest.mark.parametrize("name", HASHES)
def test_type_hash_is_the_released_one(name):
    description = Path(get_package_share_directory("vision_msgs"), "msg", f"{name}.json")
    if not description.is_file():
        pytest.skip("this ROS 2 distribution has no type hashes (they came with Iron)")
    hashes = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(description.read_text())["type_hashes"]
    }
    assert hashes[f"vision_msgs/msg/{name}"] == f"RIHS01_{HASHES[name]}"
    assert hasattr(vision_msgs.msg, name)


def test_transforms_are_understood_by_everybody():
    # As released since Iron; rosbags knows it too.
    released = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
    assert get_typestore(Stores.ROS2_JAZZY).hash_rihs01("tf2_msgs/msg/TFMessage") == released
    assert hasattr(tf2_msgs.msg, "TFMessage")
    description = Path(get_package_share_directory("tf2_msgs"), "msg", "TFMessage.json")
    if not description.is_file():
        pytest.skip("this ROS 2 distribution has no type hashes (they came with Iron)")
    hashes = json.loads(description.read_text())["type_hashes"]
    assert {"type_name": "tf2_msgs/msg/TFMessage", "hash_string": released} in hashes


@pytest.mark.parametrize(
    "package", ["ffmpeg_image_transport_msgs", "foxglove_msgs", "tf2_msgs", "vision_msgs"]
)
def test_our_definition_is_out_of_reach_of_a_plain_colcon_build(package):
    interfaces = Path(__file__).parents[1] / "ros2_ws" / "interfaces"
    assert (interfaces / "COLCON_IGNORE").is_file()
    assert (interfaces / package / "package.xml").is_file()
    assert not (interfaces.parent / "src" / package).exists()
