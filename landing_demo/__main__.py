"""Land a simulated vehicle on a pad by what its camera sees, told by LANDING_TARGET, and draw the track.

python -m landing_demo [--roof] [--autopilot ardupilot] [--seed 7] [--output demo-landing]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from yolo_trt_node.detector import Detector

from landing_demo.flight import land
from landing_demo.pad import ROOF_M, Site, write_pad_detector
from landing_demo.picture import draw_track

SIZE = (480, 360)
FOCAL = 330.0
WANTED_M = 0.5


def main() -> int:
    """Run the demo; the exit status tells whether it landed within `WANTED_M`."""
    parser = argparse.ArgumentParser(
        prog="python -m landing_demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--roof", action="store_true", help=f"the pad lies on a roof {ROOF_M:g} m high")
    parser.add_argument("--autopilot", choices=("px4", "ardupilot"), default="px4", help="whose frames")
    parser.add_argument("--seed", type=int, default=1, help="of the scene")
    parser.add_argument("--output", type=Path, default=Path("demo-landing"), help="folder of the picture")
    given = parser.parse_args()
    if given.seed < 0:
        parser.error(f"--seed is {given.seed}; it must not be negative")
    with tempfile.TemporaryDirectory() as folder:
        detector = Detector.load(write_pad_detector(Path(folder) / "pad.onnx", SIZE))
        site = Site(given.seed, ROOF_M if given.roof else 0.0, SIZE, FOCAL)
        print("flying: camera -> detector -> LANDING_TARGET -> autopilot -> camera ...", flush=True)
        track = land(detector, site, SIZE, kind=given.autopilot)
    where = "a roof" if given.roof else "the ground"
    end = f"{track.miss_m:.2f} m from the middle" if track.landed else "it did not land"
    said = f"{given.autopilot}, a pad on {where}: {end}, {track.times[-1]:.0f} s, {sum(track.seen)} messages"
    print(said)
    picture = given.output / "landing.png"
    draw_track(track, said, picture)
    print(f"the track: {picture}")
    return 0 if track.landed and track.miss_m <= WANTED_M else 1


if __name__ == "__main__":
    sys.exit(main())
