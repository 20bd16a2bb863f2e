"""``import tensorrt_rtx`` finds the fake, of the version that the environment names."""

import os

from support.fake_tensorrt import populate

populate(globals(), os.environ["FAKE_TENSORRT"])
