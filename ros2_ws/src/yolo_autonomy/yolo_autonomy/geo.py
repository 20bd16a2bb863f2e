"""Places on the ground as geographic ones (WGS 84), and files of them: GeoJSON and KML; no ROS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from yolo_autonomy.frames import Floats

# WGS 84: half axis in metres, flattening.
_A, _F = 6_378_137.0, 1 / 298.257223563
_E2 = _F * (2 - _F)
_DECIMALS = 8  # a millimetre
# A track whose places are farther apart than this many standard deviations has moved.
_MOVED_SIGMAS = 3.0


def to_ecef(geodetic: Floats) -> Floats:
    """Return latitudes and longitudes (degrees) and heights (metres), N x 3, as earth-centred metres."""
    latitude, longitude = np.radians(geodetic[:, 0]), np.radians(geodetic[:, 1])
    normal = _A / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
    flat = (normal + geodetic[:, 2]) * np.cos(latitude)
    up = (normal * (1 - _E2) + geodetic[:, 2]) * np.sin(latitude)
    return np.column_stack([flat * np.cos(longitude), flat * np.sin(longitude), up])


def from_ecef(points: Floats) -> Floats:
    """Return earth-centred metres, N x 3, as latitude and longitude (degrees) and height (metres)."""
    flat = np.hypot(points[:, 0], points[:, 1])
    latitude = np.arctan2(points[:, 2], flat * (1 - _E2))
    for _ in range(6):  # to less than a micrometre near the ground
        normal = _A / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
        latitude = np.arctan2(points[:, 2] + _E2 * normal * np.sin(latitude), flat)
    sine = np.sin(latitude)
    height = flat * np.cos(latitude) + points[:, 2] * sine - _A * np.sqrt(1 - _E2 * sine**2)
    return np.column_stack([np.degrees(latitude), np.degrees(np.arctan2(points[:, 1], points[:, 0])), height])


@dataclass(frozen=True)
class Datum:
    """Where the origin of a frame with x east, y north, z up lies on the earth.

    Attributes:
        latitude: degrees.
        longitude: degrees.
        height: metres above the ellipsoid.
    """

    latitude: float
    longitude: float
    height: float

    def geodetic(self, places: Floats) -> Floats:
        """Return places in the frame, N x 3 metres, as latitude, longitude (degrees), height (metres)."""
        return from_ecef(self._origin() + places @ self._axes())

    def local(self, geodetic: Floats) -> Floats:
        """Return latitudes, longitudes (degrees) and heights (metres), N x 3, as places in the frame."""
        return (to_ecef(geodetic) - self._origin()) @ self._axes().T

    @classmethod
    def from_fix(cls, fix: Floats, place: Floats) -> Datum:
        """Return the datum of a frame in which a place (3, metres) has this latitude, longitude, height."""
        at = np.array(fix, np.float64)
        for _ in range(5):
            at = at + (fix - cls(*at).geodetic(place[None])[0])
        return cls(*map(float, at))

    def _origin(self) -> Floats:
        return to_ecef(np.array([[self.latitude, self.longitude, self.height]]))[0]

    def _axes(self) -> Floats:
        """Return east, north and up as rows, in earth-centred axes."""
        latitude, longitude = math.radians(self.latitude), math.radians(self.longitude)
        sin_a, cos_a, sin_o, cos_o = (
            math.sin(latitude), math.cos(latitude), math.sin(longitude), math.cos(longitude),
        )  # fmt: skip
        return np.array(
            [
                [-sin_o, cos_o, 0],
                [-sin_a * cos_o, -sin_a * sin_o, cos_a],
                [cos_a * cos_o, cos_a * sin_o, sin_a],
            ]
        )


@dataclass
class GroundTrack:
    """One object's places.

    Attributes:
        name: its class.
        track_id: empty where nothing tracked it.
        times_ns: of the images that show it, since 1970.
        places: of it in the fixed frame, 3 metres each.
        covariances: 3 x 3 each, square metres.
        scores: 0 to 1.
    """

    name: str
    track_id: str
    times_ns: list[int] = field(default_factory=list)
    places: list[Floats] = field(default_factory=list)
    covariances: list[Floats] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, time_ns: int, place: Floats, covariance: Floats, score: float) -> None:
        """Take what one image shows of it."""
        self.times_ns.append(time_ns)
        self.places.append(place)
        self.covariances.append(covariance)
        self.scores.append(score)

    @property
    def covariance(self) -> Floats:
        """3 x 3, of the best of its places: their errors are alike, so that a mean is hardly better."""
        return min(self.covariances, key=lambda matrix: float(np.trace(matrix)))

    @property
    def middle(self) -> Floats:
        """3, the mean of its places, the certain ones counting more."""
        weights = np.array([1 / max(float(np.trace(matrix)), 1e-6) for matrix in self.covariances])
        return np.average(np.array(self.places), axis=0, weights=weights)

    @property
    def moved(self) -> bool:
        """Whether its places lie farther apart than their errors explain."""
        flat = np.array(self.places)[:, :2]
        reach = float(np.linalg.norm(flat.max(axis=0) - flat.min(axis=0)))
        return reach > 2 * _MOVED_SIGMAS * math.sqrt(float(np.trace(self.covariance[:2, :2])))


def features(tracks: Iterable[GroundTrack], datum: Datum) -> list[dict[str, Any]]:
    """Return a GeoJSON feature for each track: a line where it moved, else a point."""
    made = []
    for track in tracks:
        places = np.array(track.places) if track.moved else track.middle[None]
        where = [
            [round(longitude, _DECIMALS), round(latitude, _DECIMALS), round(height, 2)]
            for latitude, longitude, height in datum.geodetic(places).tolist()
        ]
        covariance = track.covariance
        made.append(
            {
                "type": "Feature",
                "geometry": (
                    {"type": "LineString", "coordinates": where}
                    if track.moved
                    else {"type": "Point", "coordinates": where[0]}
                ),
                "properties": {
                    "class": track.name,
                    "track": track.track_id,
                    "score": round(max(track.scores), 3),
                    "first_seen": iso(min(track.times_ns)),
                    "last_seen": iso(max(track.times_ns)),
                    "sightings": len(track.places),
                    "sigma_east_m": round(math.sqrt(max(0.0, covariance[0, 0])), 3),
                    "sigma_north_m": round(math.sqrt(max(0.0, covariance[1, 1])), 3),
                    "covariance_east_north_m2": round(float(covariance[0, 1]), 4),
                },
            }
        )
    return made


def geojson(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return features as one GeoJSON object (RFC 7946)."""
    return {"type": "FeatureCollection", "features": list(items)}


def kml(items: Sequence[dict[str, Any]], title: str) -> str:
    """Return features as a KML 2.2 document."""
    marks = []
    for item in items:
        about, shape = item["properties"], item["geometry"]
        line = shape["type"] == "LineString"
        places = shape["coordinates"] if line else [shape["coordinates"]]
        # Clamped to the ground, since heights above the ellipsoid are none above the sea.
        where = " ".join(f"{longitude},{latitude}" for longitude, latitude, _ in places)
        data = "".join(
            f"<Data name={quoteattr(key)}><value>{escape(str(value))}</value></Data>"
            for key, value in about.items()
        )
        name = f"{about['class']} {about['track']}".strip()
        marks.append(
            f"<Placemark><name>{escape(name)}</name><TimeSpan><begin>{about['first_seen']}</begin>"
            f"<end>{about['last_seen']}</end></TimeSpan><ExtendedData>{data}</ExtendedData>"
            f"<{shape['type']}><coordinates>{where}</coordinates></{shape['type']}></Placemark>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>'
        f"<name>{escape(title)}</name>\n" + "\n".join(marks) + "\n</Document></kml>\n"
    )


def iso(time_ns: int) -> str:
    """Return a time since 1970 as ISO 8601 in UTC, to the millisecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"
