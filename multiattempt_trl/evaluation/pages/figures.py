"""Pictures of accuracy by attempt, as PNG and SVG: one chart, or a panel for each benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from multiattempt_trl.evaluation.files import write_bytes

# Okabe & Ito 2008: told apart with every common kind of colour blindness. Yellow is left out, too pale for a line.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, MUTED, GRID, PAPER = "#222222", "#666666", "#E3E3E3", "#FFFFFF"
MARKERS = "osD^vP*"
BLACK = len(PALETTE) - 1
"""The hue of what is neither a run nor its control."""

STYLE = {
    "svg.hashsalt": "multiattempt_trl",  # ids are hashes: without a salt of ours they would change with every run
    "svg.fonttype": "none",  # text stays text, to be selected and searched
    "text.parse_math": False,  # a model may be called "a$b$"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a picture."""

    label: str
    """In the legend; a `thin` line has its label at its end instead, and none where it is empty."""
    accuracy: Mapping[str, float]
    """"k" -> fraction in [0, 1], as in a block's `accuracy` or `pass_at_k`."""
    ci95: Mapping[str, Sequence[float]] | None = None
    """"k" -> [lower, upper], drawn as a band."""
    style: Literal["curve", "dashed", "dotted", "thin", "points"] = "curve"
    """A main curve; a control (pass@k, maj@k); one of the runs behind a mean; or single numbers of somebody else."""
    hue: int = 0
    """Lines with the same hue share a colour: a curve, its controls and its seeds."""

    @property
    def colour(self) -> str:
        return PALETTE[self.hue % len(PALETTE)]


def draw_accuracy_by_attempt(
    series: Sequence[Series], path: Path, *, title: str = "Questions solved, by attempts allowed"
) -> str:
    """Writes the series as `path` (PNG, 1,800 pixels wide) and beside it as SVG, whose text is returned.

    The same series give the same bytes.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(9, 5.8)
        axes = figure.add_subplot()
        most = _draw_all(axes, series)
        _dress(axes, most, "Attempts allowed" + _key(series))
        _label_ends(axes, series, most)
        _legend(figure, [axes], title, columns=2)
        return _save(figure, path)


def draw_panels(panels: Mapping[str, Sequence[Series]], path: Path, *, title: str) -> str:
    """Writes a small chart for each entry, under its name, at most three in a row; files as in the function above."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = _figure(max(3.1 * columns, 4.6), 2.7 * rows + 1.1)
        grid = figure.subplots(rows, columns, squeeze=False)
        every = list(grid.flat)
        for axes, (name, series) in zip(every, panels.items(), strict=False):
            most = _draw_all(axes, series, scale=0.7)
            _dress(axes, most, "", size=9)
            axes.set_title(name, fontsize=10, fontweight="bold", color=INK, loc="left")
        for axes in every[len(panels) :]:
            axes.set_axis_off()
        _legend(figure, every[: len(panels)], title, columns=2)
        figure.supxlabel("Attempts allowed", fontsize=10, color=INK)
        return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, outside of matplotlib's global state."""
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)  # inches
    return figure


def _save(figure: Figure, path: Path) -> str:
    png, svg = BytesIO(), BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    write_bytes(path, png.getvalue())
    write_bytes(path.with_suffix(".svg"), svg.getvalue())
    return svg.getvalue().decode()


def _legend(figure: Figure, every: Sequence[Axes], title: str, *, columns: int) -> None:
    """Above the axes, where it covers no curve; the title belongs to it, since both claim that place."""
    entries = {
        label: handle
        for axes in every
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)  # once for all panels
    }
    legend = figure.legend(
        list(entries.values()),
        [f"\u200b{label}" if label.startswith("_") else label for label in entries],  # which matplotlib leaves out
        loc="outside upper left",
        ncols=min(max(len(entries), 1), columns),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handlelength=2.6,
        columnspacing=2.4,
        borderpad=0.2,
        borderaxespad=1,
        title=title,
        title_fontproperties={"size": 14, "weight": "bold"},
        alignment="left",
    )
    legend.get_title().set_color(INK)
    legend.get_title().set_position((0, 6))


def _key(series: Sequence[Series]) -> str:
    """What broken lines are, where there are some."""
    styles = {line.style for line in series}
    said = [("dashed", "dashed: independent samples"), ("dotted", "dotted: their majority vote")]
    words = [text for style, text in said if style in styles]
    return f" ({'; '.join(words)})" if words else ""


def _draw_all(axes: Axes, series: Sequence[Series], scale: float = 1.0) -> int:
    """Draws every line; returns the most attempts of any."""
    for line in series:
        _draw(axes, line, scale)
    return max(int(k) for line in series for k in line.accuracy)


def _draw(axes: Axes, line: Series, scale: float) -> None:
    ks = [int(k) for k in line.accuracy]
    percents = [100 * share for share in line.accuracy.values()]
    marker = MARKERS[line.hue % len(MARKERS)]  # a second cue besides colour
    if line.style == "thin":
        axes.plot(ks, percents, color=line.colour, linewidth=1, alpha=0.45, zorder=2)
    elif line.style in ("dashed", "dotted"):
        axes.plot(
            ks,
            percents,
            color=line.colour,
            linewidth=1.8 * scale,
            linestyle=(0, (4, 2.2)) if line.style == "dashed" else (0, (1, 1.6)),
            marker="_" if len(ks) == 1 else None,  # one point makes no line
            markersize=14,
            alpha=0.9,
            label=line.label,
            zorder=3,
        )
    elif line.style == "points":
        (drawn,) = axes.plot(ks, percents, color=line.colour, linestyle="none", marker=marker, label=line.label)
        drawn.set(markersize=9 * scale, markerfacecolor=PAPER, markeredgewidth=1.8 * scale, zorder=5)
        if scale == 1:
            for at in zip(ks, percents, strict=True):
                offset, size = (9, -3), 9  # points
                axes.annotate(
                    f"{at[1]:.1f}", at, xytext=offset, textcoords="offset points", fontsize=size, color=line.colour
                )
    else:
        _band(axes, line, ks)
        axes.plot(
            ks,
            percents,
            color=line.colour,
            linewidth=2.6 * scale,
            marker=marker,
            markersize=7 * scale,
            markeredgecolor=PAPER,
            markeredgewidth=1.2 * scale,
            label=line.label,
            zorder=4,
        )


def _band(axes: Axes, line: Series, ks: Sequence[int]) -> None:
    if line.ci95 is None:
        return
    lower, upper = ([100 * line.ci95[k][side] for k in line.accuracy] for side in (0, 1))
    if len(ks) == 1:  # a band around one point has no width
        axes.vlines(ks, lower, upper, color=line.colour, alpha=0.14, linewidth=14, zorder=1)
    axes.fill_between(ks, lower, upper, color=line.colour, alpha=0.14, linewidth=0, zorder=1)


def _dress(axes: Axes, most: int, x_title: str, size: float = 11) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low), min(100, high) if high > 100 else high)
    if high > 100:
        axes.set_ylim(top=101)  # a marker at 100 % is not cut
    axes.set_xlim(1 - 0.05 * max(most - 1, 1), most + 0.09 * max(most - 1, 1))
    axes.set_xticks(range(1, most + 1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7 if size > 10 else 4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g} %"))
    if x_title:
        axes.set_xlabel(x_title, fontsize=size + 1, color=INK, labelpad=8)
        axes.set_ylabel("Questions solved", fontsize=size + 1, color=INK, labelpad=8)
    axes.tick_params(length=0, labelsize=size, labelcolor=MUTED, pad=6)
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
        if text and line.style != "points":
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
            color=MUTED if line.style == "thin" and line.hue == BLACK else line.colour,
            annotation_clip=False,
        )
