"""Small line charts for the HTML pages, as what a template needs to draw them."""

from collections.abc import Sequence


def line(title: str, values: Sequence[tuple[float, float]], is_share: bool = False) -> dict:
    """A line in a box of 100 x 40: shares from 0 to 1, other figures from 0, or the least below, to the largest.

    Args:
        values: (x, y), x from 0 on.
        is_share: of the ys; they are written as percentages.
    """
    ys = [y for _, y in values]
    top, low = max([1.0 if is_share else 0.0, *ys]), min([0.0, *ys])
    height, width = (top - low) or 1.0, max((x for x, _ in values), default=0) or 1
    points = [(round(100 * x / width, 2), round(40 - 40 * (y - low) / height, 2)) for x, y in values]
    written = [f"{100 * y:.0f}%" if is_share else f"{y:.3g}" for y in ys]
    return {
        "title": title,
        "points": " ".join(f"{x},{y}" for x, y in points),
        "first": written[0] if written else "",
        "last": written[-1] if written else "",
    }
