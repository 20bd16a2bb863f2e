"""Make a YOLOv8 detector smaller and faster, offline, and see what that costs."""

import os

# Read by OpenMP when torch is imported. By default torch's threads spin while they wait for each other; on a
# machine whose cores also do something else, training then takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
