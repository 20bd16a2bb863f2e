"""What this machine trains on."""

from __future__ import annotations

import torch

from yolo_compress.errors import UserError

from ultralytics.utils.torch_utils import parse_device  # isort: skip


def check_device(device: str, batch: int) -> None:
    """See that this machine has what a recipe wants to train on.

    Args:
        device: as Ultralytics names it: ``cpu``, ``mps``, or CUDA devices by number, ``0`` or ``0,1``.
        batch: images a step, spread over the devices.

    Raises:
        UserError: it has not, or the batch cannot be spread.
    """
    name = parse_device(device)
    if name == "cpu":
        return
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError(
                f"device: {device!r} is for Apple's GPUs, and torch finds none here; {_devices()}"
            )
        return
    numbers = name.split(",")
    if not all(number.isdigit() for number in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"device: {device!r} is none of cpu, mps, 0, or several as in 0,1; {_devices()}")
    missing = [number for number in numbers if int(number) >= torch.cuda.device_count()]
    if missing:
        raise UserError(f"device: torch finds no CUDA device {', '.join(missing)} here; {_devices()}")
    if batch % len(numbers):
        raise UserError(
            f"batch: {batch} images do not spread evenly over the {len(numbers)} devices {device}"
        )


def _devices() -> str:
    """Say what this machine has."""
    there = ["cpu", *(["mps"] if torch.backends.mps.is_available() else [])]
    return "there is " + ", ".join(there + [str(number) for number in range(torch.cuda.device_count())])
