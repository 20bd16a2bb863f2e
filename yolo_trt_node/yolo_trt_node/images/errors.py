"""What is wrong with an image."""

from __future__ import annotations


class ImageError(ValueError):
    """An image message that cannot be read.

    The message says what is wrong with it, with its figures; ``reason`` says the same in few words without
    figures, so that it can be counted.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Join the reason and what there is to say of this one image."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def shown(text: str) -> str:
    """Quote what a message says of itself, at a length fit for a log."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
