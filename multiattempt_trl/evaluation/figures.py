"""The picture of the method: accuracy by attempt, with intervals and the control beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from multiattempt_trl.evaluation.files import write_bytes

# Okabe & Ito 2008: told apart with every common kind of colour blindness. Yellow is left out, too pale for a line.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, MUTED, GRID = "#222222", "#666666", "#E3E3E3"
MARKERS = "osD^vP*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of the picture."""

    label: str
    """In the legend; a `thin` line has its label at its end instead, and none where it is empty."""
    accuracy: Mapping[str, float]
    """"k" -> fraction in [0, 1], as in a block's `accuracy` or `pass_at_k`."""
    ci95: Mapping[str, Sequence[float]] | None = None
    """"k" -> [lower, upper], drawn as a band."""
    style: Literal["curve", "dashed", "thin"] = "curve"
    """A main curve; a control (pass@k); or one of the runs behind a mean."""
    hue: int = 0
    """Lines with the same hue share a colour: a curve, its control and its seeds."""

    @property
    def colour(self) -> str:
        return PALETTE[self.hue % len(PALETTE)]


def draw_accuracy_by_attempt(
    series: Sequence[Series], path: Path, *, title: str = "Questions solved, by attempts allowed"
) -> None:
    """Writes a PNG of the series, 1,800 pixels wide. Nothing of it is kept in matplotlib's global state."""
    figure = Figure(figsize=(9, 5.8), dpi=200, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.18, h_pad=0.1)  # inches
    axes = figure.add_subplot()
    for line in series:
        _draw(axes, line)
    controlled = any(line.style == "dashed" for line in series)
    most = max(int(k) for line in series for k in line.accuracy)
    _dress(axes, most, "Attempts allowed" + (" (dashed: independent samples)" if controlled else ""))
    _label_ends(axes, series, most)
    handles, labels = axes.get_legend_handles_labels()
    # Above the axes, where it covers no curve; the title belongs to it, since both claim that place.
    legend = figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(max(len(handles), 1), 2),
        frameon=False,
        fontsize=11,
        labelcolor=INK,
        handlelength=2.6,
        columnspacing=2.4,
        borderpad=0.2,
        borderaxespad=1,
        title=title,
        title_fontproperties={"size": 15, "weight": "bold"},
        alignment="left",
    )
    legend.get_title().set_color(INK)
    legend.get_title().set_position((0, 6))
    image = BytesIO()
    figure.savefig(image, format="png")
    write_bytes(path, image.getvalue())


def _draw(axes: Axes, line: Series) -> None:
    ks = [int(k) for k in line.accuracy]
    percents = [100 * share for share in line.accuracy.values()]
    if line.style == "thin":
        axes.plot(ks, percents, color=line.colour, linewidth=1, alpha=0.45, zorder=2)
    elif line.style == "dashed":
        axes.plot(
            ks,
            percents,
            color=line.colour,
            linewidth=1.8,
            linestyle=(0, (4, 2.2)),
            marker="_" if len(ks) == 1 else None,  # one point makes no line
            markersize=14,
            alpha=0.9,
            label=line.label,
            zorder=3,
        )
    else:
        if line.ci95 is not None:
            lower, upper = ([100 * line.ci95[k][side] for k in line.accuracy] for side in (0, 1))
            if len(ks) == 1:  # a band around one point has no width
                axes.vlines(ks, lower, upper, color=line.colour, alpha=0.14, linewidth=14, zorder=1)
            axes.fill_between(ks, lower, upper, color=line.colour, alpha=0.14, linewidth=0, zorder=1)
        axes.plot(
            ks,
            percents,
            color=line.colour,
            linewidth=2.6,
            marker=MARKERS[line.hue % len(MARKERS)],  # a second cue besides colour
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=1.2,
            label=line.label,
            zorder=4,
        )


def _dress(axes: Axes, most: int, x_title: str) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low), min(100, high) if high > 100 else high)
    if high > 100:
        axes.set_ylim(top=101)  # a marker at 100 % is not cut
    axes.set_xlim(1 - 0.05 * max(most - 1, 1), most + 0.09 * max(most - 1, 1))
    axes.set_xticks(range(1, most + 1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g} %"))
    axes.set_xlabel(x_title, fontsize=12, color=INK, labelpad=8)
    axes.set_ylabel("Questions solved", fontsize=12, color=INK, labelpad=8)
    axes.tick_params(length=0, labelsize=11, labelcolor=MUTED, pad=6)
    axes.grid(axis="y", color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")


def _label_ends(axes: Axes, series: Sequence[Series], most: int) -> None:
    """The last value of each main curve and the name of each thin line, pushed apart where they would overlap."""
    ends: list[tuple[float, str, Series]] = []
    for line in series:
        last = 100 * list(line.accuracy.values())[-1]
        text = line.label if line.style == "thin" else f"{last:.1f}"
        if text:
            ends.append((last, text, line))
    low, high = axes.get_ylim()
    gap = 0.042 * (high - low)
    position = float("-inf")
    for percent, text, line in sorted(ends, key=lambda end: end[0]):
        position = max(percent, position + gap)
        axes.annotate(
            text,
            (most, position),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=9 if line.style == "thin" else 11,
            fontweight="bold" if line.style == "curve" else "normal",
            color=line.colour,
            annotation_clip=False,
        )
