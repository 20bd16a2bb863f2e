"""Make a YOLOv8 detector smaller and faster, offline, and see what that costs."""

import os

# Read by OpenMP when torch is imported. By default torch's threads spin while they wait for each other. On an
# idle machine that is faster by half; on one whose cores also do something else it can be ten times slower,
# and nobody knows beforehand. Waiting passively takes about as long on either.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
