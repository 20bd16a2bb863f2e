"""A flight's objects are where they are on the earth."""

import json
import math
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
from yolo_autonomy import bag_geo
from yolo_autonomy.frames import Mount, turn
from yolo_autonomy.geo import Datum, GroundTrack, features, from_ecef, geojson, iso, kml, to_ecef
from yolo_trt_node.cdr import detection_array
from yolo_trt_node.projection import Ground
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, typestore

ZURICH = Datum(47.3769, 8.5417, 450.0)
BEGIN_NS = 1_790_000_000_000_000_000


class TestEarth:
    def test_known_places_are_where_they_should_be(self):
        # By definition: on the equator, at a pole.
        found = to_ecef(np.array([[0.0, 0.0, 0.0], [0.0, 90.0, 10.0], [90.0, 0.0, 0.0]]))
        expected = [[6378137.0, 0, 0], [0, 6378147.0, 0], [0, 0, 6356752.314245]]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @pytest.mark.parametrize("datum", [ZURICH, Datum(-33.9, 151.2, 5.0), Datum(0.0, -179.99, 0.0)])
    def test_there_and_back(self, datum):
        places = np.array([[0.0, 0, 0], [1000, -2000, 50], [-5, 3, -1]])
        np.testing.assert_allclose(datum.local(datum.geodetic(places)), places, atol=1e-6)
        geodetic = datum.geodetic(places)
        np.testing.assert_allclose(from_ecef(to_ecef(geodetic)), geodetic, atol=1e-9)

    def test_east_is_east_and_north_is_north(self):
        east, north = ZURICH.geodetic(np.array([[100.0, 0, 0], [0, 100.0, 0]]))
        assert east[1] > ZURICH.longitude
        assert east[0] == pytest.approx(ZURICH.latitude, abs=1e-7)
        assert north[0] > ZURICH.latitude
        # A degree of latitude is 111.2 km here.
        assert (north[0] - ZURICH.latitude) * 111_190 == pytest.approx(100, rel=1e-3)

    def test_a_fix_at_a_known_place_gives_the_datum(self):
        place = np.array([321.0, -45.0, 80.0])
        found = Datum.from_fix(ZURICH.geodetic(place[None])[0], place)
        np.testing.assert_allclose(
            (found.latitude, found.longitude, found.height),
            (ZURICH.latitude, ZURICH.longitude, ZURICH.height),
            atol=1e-8,
        )


def track(places, sigma=0.5, name="car", key="7") -> GroundTrack:
    made = GroundTrack(name, key)
    for index, place in enumerate(places):
        made.add(BEGIN_NS + index * 10**9, np.array([*place, 0.0]), np.eye(3) * sigma**2, 0.5 + 0.1 * index)
    return made


class TestFiles:
    def test_what_stands_is_a_point_and_what_moves_a_line(self):
        standing, moving = track([(0, 0), (0.4, 0.2)]), track([(0, 0), (10, 0), (20, 0)])
        one, two = features([standing, moving], ZURICH)
        assert (one["geometry"]["type"], two["geometry"]["type"]) == ("Point", "LineString")
        longitude, latitude, height = two["geometry"]["coordinates"][0]
        assert (longitude, latitude, height) == pytest.approx((8.5417, 47.3769, 450.0))
        about = one["properties"]
        assert about["class"] == "car"
        assert about["sightings"] == 2
        assert about["score"] == 0.6
        assert (about["sigma_east_m"], about["sigma_north_m"]) == (0.5, 0.5)
        assert about["first_seen"] == iso(BEGIN_NS) == "2026-09-21T14:13:20.000Z"

    def test_both_files_are_well_formed_and_strange_names_break_nothing(self):
        items = features([track([(0, 0)], name='<b>"&', key="]]>")], ZURICH)
        assert json.loads(json.dumps(geojson(items)))["type"] == "FeatureCollection"
        document = ElementTree.fromstring(kml(items, "<flight>"))
        space = {"k": "http://www.opengis.net/kml/2.2"}
        assert document.findtext(".//k:Placemark/k:name", None, space) == '<b>"& ]]>'
        assert document.findtext(".//k:Document/k:name", None, space) == "<flight>"
        where = document.findtext(".//k:Point/k:coordinates", None, space).split(",")
        assert [float(part) for part in where] == pytest.approx([8.5417, 47.3769])


STANDING, DRIVING = np.array([12.0, 30.0, 0.0]), np.array([-10.0, 22.0, 0.0])
FOCAL, WIDTH, HEIGHT = 800.0, 1280, 720
TILTED = Mount(-60.0)


def write_flight(path, *, fixes: bool = True, detections: bool = True):
    """Eight seconds over two objects: the drone flies north at 30 m, its camera tilted, one object drives."""
    store = typestore()
    types = store.types

    def transform(parent, child, stamp, place, rotation):
        half = np.array(
            [
                rotation[2, 1] - rotation[1, 2],
                rotation[0, 2] - rotation[2, 0],
                rotation[1, 0] - rotation[0, 1],
                1 + np.trace(rotation),
            ]
        )
        x, y, z, w = (half / np.linalg.norm(half)).tolist()
        return types["geometry_msgs/msg/TransformStamped"](
            header=messages.header(store, stamp, parent),
            child_frame_id=child,
            transform=types["geometry_msgs/msg/Transform"](
                translation=types["geometry_msgs/msg/Vector3"](
                    **dict(zip("xyz", map(float, place), strict=True))
                ),
                rotation=types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
            ),
        )

    with BagWriter(path, store) as writer:

        def write(topic, kind, stamp, **fields):
            message = types[kind](**fields)
            writer.write(topic, kind, bytes(store.serialize_cdr(message, kind)), stamp)

        # ROS's body: x ahead, y left, z up; the body here looks north.
        flu = np.diag([1.0, -1.0, -1.0])
        north = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        camera = flu @ TILTED.body_from_optical()
        lever = (0.2, 0.0, 0.1)
        static = [
            transform("base", "camera", BEGIN_NS, (0.1, 0, -0.05), camera),
            transform("base", "gps", BEGIN_NS, lever, np.eye(3)),
        ]
        write("/tf_static", "tf2_msgs/msg/TFMessage", BEGIN_NS, transforms=static)
        labels = messages.label_info(store, messages.header(store, BEGIN_NS, ""), ["man", "car"], 0.3)
        writer.write("/label_info", "vision_msgs/msg/LabelInfo", labels, BEGIN_NS)
        k = [FOCAL, 0, WIDTH / 2, 0, FOCAL, HEIGHT / 2, 0, 0, 1]
        write(
            "/camera_info", "sensor_msgs/msg/CameraInfo", BEGIN_NS,
            header=messages.header(store, BEGIN_NS, "camera"), height=HEIGHT, width=WIDTH,
            distortion_model="", d=np.zeros(0), k=np.array(k, float), r=np.eye(3).reshape(-1),
            p=np.zeros(12), binning_x=0, binning_y=0,
            roi=types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )  # fmt: skip
        for step in range(40):
            stamp = BEGIN_NS + step * 200_000_000
            place = np.array([1.0, 0.5 * step, 30.0])
            sway = turn(0.05 * math.sin(step), 0.04 * math.cos(step), 0.0)
            body = north @ (flu @ sway @ flu)
            seen = []
            for number, at in (("1", STANDING), ("2", DRIVING + np.array([0, 0.4 * step, 0]))):
                ray = (body @ camera).T @ (at - place - body @ (0.1, 0, -0.05))
                u, v = ray[:2] / ray[2] * FOCAL + (WIDTH / 2, HEIGHT / 2)
                if ray[2] > 0 and 20 < u < WIDTH - 20 and 20 < v < HEIGHT - 20:
                    seen.append((u, v, number))
            header = SimpleNamespace(
                stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera"
            )
            if detections and seen:
                data = detection_array(
                    header, np.array([item[:2] for item in seen]), np.full((len(seen), 2), 1e-3),
                    np.full(len(seen), 0.8), ["1"] * len(seen), [item[2] for item in seen],
                )  # fmt: skip
                writer.write("/detections", "vision_msgs/msg/Detection2DArray", data, stamp)
            # The pose comes later than the image, as estimators have it.
            pose = transform("map", "base", stamp, place, body)
            write("/tf", "tf2_msgs/msg/TFMessage", stamp + 50_000_000, transforms=[pose])
            if fixes and step % 5 == 0:
                (fix,) = ZURICH.geodetic((place + body @ np.array(lever))[None]).tolist()
                write(
                    "/fix", "sensor_msgs/msg/NavSatFix", stamp + 60_000_000,
                    header=messages.header(store, stamp, "gps"),
                    status=types["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
                    latitude=fix[0], longitude=fix[1], altitude=fix[2],
                    position_covariance=np.zeros(9), position_covariance_type=0,
                )  # fmt: skip
    return path


def test_a_flights_objects_are_on_the_map_to_the_centimetre(tmp_path, capsys):
    flight = write_flight(tmp_path / "flight")
    out = tmp_path / "new" / "flight.geojson"
    assert bag_geo.main([str(flight), "-o", str(out)]) == 0
    assert "2 objects, 1 of them moving" in capsys.readouterr().out
    found = {item["properties"]["track"]: item for item in json.loads(out.read_text())["features"]}
    assert found["1"]["properties"]["class"] == "car"
    longitude, latitude, height = found["1"]["geometry"]["coordinates"]
    (place,) = ZURICH.local(np.array([[latitude, longitude, height]]))
    np.testing.assert_allclose(place, STANDING, atol=0.02)
    line = np.array(found["2"]["geometry"]["coordinates"])
    places = ZURICH.local(line[:, [1, 0, 2]])
    np.testing.assert_allclose(places[:, 0], DRIVING[0], atol=0.02)
    assert (np.diff(places[:, 1]) > 0.35).all()
    assert ElementTree.parse(out.with_suffix(".kml")).getroot().tag.endswith("kml")


def test_the_detectors_own_places_are_taken_as_they_are():
    def message(frame):
        at = SimpleNamespace(x=3.0, y=-4.0, z=0.0)
        covariance = np.diag([1.0, 4.0, 0.0, 1, 1, 1]).reshape(-1)
        best = SimpleNamespace(
            hypothesis=SimpleNamespace(class_id="1", score=0.7),
            pose=SimpleNamespace(pose=SimpleNamespace(position=at), covariance=covariance),
        )
        found = [SimpleNamespace(id="5", results=[best]), SimpleNamespace(id="6", results=[])]
        stamp = SimpleNamespace(sec=BEGIN_NS // 10**9, nanosec=0)
        return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id=frame), detections=found)

    reader = bag_geo.Reader("map", Ground(), "", project=False)
    kind = "vision_msgs/msg/Detection3DArray"
    reader.take(kind, message("map"), BEGIN_NS, static=False)
    (found,) = reader.tracks.values()
    assert (found.name, found.track_id, found.places[0].tolist()) == ("1", "5", [3.0, -4.0, 0.0])
    (item,) = features([found], ZURICH)
    assert (item["properties"]["sigma_east_m"], item["properties"]["sigma_north_m"]) == (1.0, 2.0)
    with pytest.raises(bag_geo.GeoError, match="pass --frame odom"):
        reader.take(kind, message("odom"), BEGIN_NS, static=False)


def test_a_datum_can_be_given_and_is_asked_for_where_the_bag_has_none(tmp_path, capsys):
    flight = write_flight(tmp_path / "flight", fixes=False)
    out = tmp_path / "a.geojson"
    assert bag_geo.main([str(flight), "-o", str(out)]) == 1
    assert "pass --datum LATITUDE,LONGITUDE,HEIGHT" in capsys.readouterr().err
    assert not out.exists()
    assert bag_geo.main([str(flight), "-o", str(out), "--datum", "10,20,0", "--min-sightings", "5"]) == 0
    (longitude, latitude), _ = (json.loads(out.read_text())["features"][0]["geometry"]["coordinates"][:2], 0)
    assert (longitude, latitude) == pytest.approx((20, 10), abs=1e-3)


def test_a_bag_without_detections_and_no_bag_are_told_apart(tmp_path, capsys):
    flight = write_flight(tmp_path / "flight", detections=False)
    assert bag_geo.main([str(flight)]) == 1
    assert "neither detections_3d nor detections" in capsys.readouterr().err
    assert bag_geo.main([str(tmp_path)]) == 1
    assert "is no readable" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bag_geo.main([str(flight), "--datum", "100,0,0"])
