"""Argument checks for all networks."""

from alframe.errors import expect


def check_images(network: str, shape: tuple[int, ...], least: int) -> int:
    """The number of image channels, if `network` supports it.

    Raises ConfigError for other shapes than (1 or 3, at least `least`, at least `least`).
    """
    expect(
        len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= least,
        f"Expected images of 1 or 3 channels and at least {least}x{least} pixels for {network}, got shape {tuple(shape)} "
        "(channels, height, width); resize the images or choose another model.",
    )
    return shape[0]


def check_rate(name: str, rate: float) -> None:
    """Raises ConfigError unless the dropout rate lies in [0, 1)."""
    expect(
        0 <= rate < 1,
        f"Expected model.{name} to be from 0 up to but not including 1, got {rate}; give the share of values to drop.",
    )


def check_width(name: str, width: int) -> None:
    """Raises ConfigError unless the size of a layer is at least 1."""
    expect(width >= 1, f"Expected model.{name} to be at least 1, got {width}; give the size of the layer.")
