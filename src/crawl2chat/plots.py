"""Plots as SVG files, all in one look. The same figures give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crawl2chat.pairs import wilson

COLOURS = ("#b4552d", "#2d6cb4", "#3d8f5f", "#8a5bb0")


@contextmanager
def drawn(file: str | Path, width: float = 7.0, height: float = 4.0) -> Iterator:
    """Inside, matplotlib's axes to draw on; afterwards the file is whole.

    Args:
        width, height: in inches of 72 points.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    look = {"svg.hashsalt": "crawl2chat", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    look |= {"axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False}
    with pyplot.rc_context(look):
        figure, axes = pyplot.subplots(figsize=(width, height))
        yield axes
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def calibration(bins: list[list[float]], title: str, file: str | Path) -> None:
    """How sure a judge was, and how often it was right: on the diagonal it can be believed.

    Args:
        bins: rows of [mean probability, share that is right, pairs], as `pairs.preference_metrics` gives them.
    """
    sure, right, counts = zip(*bins)
    lows, highs = zip(*(wilson(share, count) for share, count in zip(right, counts)))
    # At 0 and at 1 the interval ends there, and rounding must not put it beyond.
    errors = [
        [max(0.0, share - low) for share, low in zip(right, lows)],
        [max(0.0, high - share) for share, high in zip(right, highs)],
    ]
    with drawn(file, 5.0, 4.4) as axes:
        axes.plot([0.5, 1], [0.5, 1], color="#999999", linestyle="--", linewidth=1, label="can be believed")
        axes.errorbar(sure, right, errors, color=COLOURS[1], marker="o", capsize=2, linewidth=1, label="this judge")
        for x, y, count in zip(sure, right, counts):
            axes.annotate(f"{count:,}", (x, y), (6, -12), textcoords="offset points", fontsize=8, color="#666666")
        axes.set(xlabel="how sure the judge is of the better reply", ylabel="share of pairs in which it is right")
        axes.set(xlim=(0.48, 1.03), ylim=(0, 1.05), title=title)
        axes.legend(loc="lower right")
