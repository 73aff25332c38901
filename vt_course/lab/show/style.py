"""The common style of all figures: colours, sizes, and the decorator that applies them."""

import re
from functools import wraps
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.colours import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, YELLOW


def forget_figures(shell) -> None:
    """Let a notebook keep only its last three figures (`_`, `__`, `___`), and not all of them for good, in `Out`.

    A figure holds its picture and its artists, several MB. Whoever executes cells for a day would run out of memory.
    """

    def forget(result) -> None:
        kept = shell.user_ns.get("_oh", {})
        for number in [number for number, value in kept.items() if isinstance(value, Figure)]:
            shell.drop_by_id({f"_{number}": kept.pop(number)})  # also from what IPython hides from `%who`

    shell.events.register("post_run_cell", forget)


if get_ipython():
    forget_figures(get_ipython())

# Markers, line styles, borders and numbers carry the same information as colours, for print in greyscale.
COLOURS = [BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, "black", YELLOW]
MARKERS = "osD^vPX*"
ALLOWED, FORBIDDEN = "#FFFFFF", "#0B3C5D"

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.06,
    "font.size": 12,
    "axes.titlesize": 13,
    "figure.titlesize": 14,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "grid.color": "0.5",
}

# The most pixels of a page that a figure takes. JupyterLab has room for it on a laptop, beside its list of files.
WIDE = 800


def page_size(pixels: int) -> dict:
    """How wide a page shows a picture of so many pixels: the metadata of an output, as IPython's `Image` takes them.

    `unconfined` keeps this width on a narrower page, such as a phone's: there the figure scrolls and stays readable.
    """
    return {"width": min(pixels, WIDE), "unconfined": True}


def png_width(png: bytes) -> int:
    """The pixels of a row, which every PNG states in these bytes."""
    return int.from_bytes(png[16:20], "big")


def output(fig: Figure) -> tuple[dict, dict]:
    """What a cell shows of a figure, and its metadata: IPython's own PNG, with the size that it has on a page."""
    png = print_figure(fig, "png", bbox_inches="tight")
    return {"image/png": png}, {"image/png": page_size(png_width(png))}


def figure(draw):
    """Decorator: apply the course's style to `draw` and close its figure, so that a cell shows it only once.

    The figure also gets the method by which IPython shows it.
    """

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        before = set(plt.get_fignums())
        with plt.style.context(["default", STYLE]):
            try:
                fig = draw(*args, **kwargs)
                fig._repr_mimebundle_ = lambda **_: output(fig)
                return fig
            finally:
                for number in set(plt.get_fignums()) - before:
                    plt.close(number)

    return drawn


def array(x) -> np.ndarray:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def panels(arrays, title) -> tuple[list[np.ndarray], list[str], str | None]:
    """One array or a list of arrays, one title or a list of titles -> (arrays, titles, title of the figure)."""
    several = isinstance(arrays, (list, tuple)) and np.ndim(array(arrays[0])) > 1
    arrays = [array(a) for a in (arrays if several else [arrays])]
    if isinstance(title, (list, tuple)):
        if len(title) != len(arrays):
            raise CourseError(f"{len(title)} titles for {len(arrays)} panels: give one each")
        return arrays, list(title), None
    return arrays, [""] * len(arrays), title


def wrapped(text: str, width: int) -> str:
    """A text in lines of at most `width` letters. What belongs together, such as 2 × 4 × 4 or T = 8, is not broken."""
    joined = re.sub(r" ([×=·/+±]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    return fill(joined, width).replace("\N{NO-BREAK SPACE}", " ")


def headline(fig: Figure, title: str | None) -> None:
    """Set the figure's title, broken into lines that fit its width."""
    if title:
        fig.suptitle(wrapped(title, int(8.5 * fig.get_figwidth())))


def ink(colour) -> str:
    """Black or white, whichever is easier to read on `colour` (WCAG relative luminance)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.18 else "white"


def outline_cells(axes, picture: np.ndarray, colour: str, linewidth: float) -> None:
    """Draw lines between the pixels of a picture (H, W, ...), each of which stands for one token."""
    axes.set_xticks(np.arange(picture.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(picture.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=colour, linewidth=linewidth, alpha=1)


def number_cells(axes, values: np.ndarray, colours) -> None:
    """Write each value of a 2-D array into its cell, in black or white (see `ink`)."""
    for (i, j), value in np.ndenumerate(values):
        colour = ink(colours[i, j, :3])
        axes.text(j, i, f"{value}", ha="center", va="center", size=11, color=colour)


def bare(axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
