"""``import tensorrt_rtx`` finds the fake."""

from support.fake_tensorrt import RTX, populate

populate(globals(), RTX, rtx=True)
