"""Whether a machine and a recipe are fit for a run: told before hours of training, with a remedy each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from yolo_compress.packages import Check, packages, python_version


def examine(
    recipe: Path | None, overrides: tuple[str, ...] = (), classes: str | None = None
) -> Iterator[Check]:
    """Check this machine, and a recipe where one is given; yield what one check after the other came to.

    Args:
        recipe: the recipe's file.
        overrides: changes to it.
        classes: which classes of a model and the data belong together, as `yolo-compress evaluate` takes it.
    """
    yield python_version()
    complete = True
    for check in packages():
        complete &= check.status != "FAIL"
        yield check
    # What is not installed cannot be imported, and the other checks import nearly all of it.
    try:
        from yolo_compress.readiness import check_machine
    except Exception as error:  # packages that do not fit together raise anything
        if complete:
            what = f"the packages do not import: {type(error).__name__}: {' '.join(str(error).split())}"
            yield Check("FAIL", what, "install the package that it names anew")
        return
    yield from check_machine(recipe, overrides, classes)
