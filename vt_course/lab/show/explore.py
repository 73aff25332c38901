"""Interactive figures: with sliders in a running JupyterLab, as a plain picture everywhere else."""

import os
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from IPython.display import Image as Picture
from PIL import Image

from vt_course import CourseError
from vt_course.lab.show.style import WIDE, page_size
from vt_course.lab.show.windows import regions_2d, shift_mask, window_numbers, windows_3d
from vt_course.models import swin


def explore_windows(size, window, shift, roll=None, mask=None):
    """Sliders for window and shift of a (H, W) or (T, H, W) map. Shows the windows, the rolled map and the mask.

    `roll`: the reader's function roll(x, shift), with x of shape (B, *size, C); its result is drawn in 2-D only.
    `mask`: the reader's function mask(size, window, shift). A wrong function gives a wrong picture. If one is left
    out, the package's is used. Raises CourseError unless every size is a multiple of its window and
    0 <= shift < window. Without a live front end (nbval, papermill, GitHub, slides), or without ipywidgets, only
    the first picture is returned.
    """
    size, window, shift = tuple(size), tuple(window), tuple(shift)
    if not len(size) == len(window) == len(shift) in (2, 3):
        raise CourseError(f"size {size}, window {window} and shift {shift} must have two or three numbers each")
    if any(s % w or not 0 <= d < w for s, w, d in zip(size, window, shift)):
        raise CourseError(
            f"every size of {size} must be a multiple of its window {window}, and 0 <= shift < window, not {shift}"
        )

    @lru_cache  # a slider that clamps another one asks twice for the same picture
    def draw(window, shift) -> bytes:
        return stacked(pictures(size, window, shift, roll or package_roll, mask or swin.shift_mask))

    if os.environ.get("VT_COURSE_STATIC"):
        return Picture(draw(window, shift), **page_size(WIDE))
    try:
        import ipywidgets as widgets
    except ImportError:
        return Picture(draw(window, shift), **page_size(WIDE))

    image = widgets.Image(value=draw(window, shift), format="png", width=WIDE)
    names = "THW"[-len(size) :]
    sides = [
        widgets.SelectionSlider(options=[w for w in range(1, s + 1) if s % w == 0], value=w, description=f"window {n}")
        for n, s, w in zip(names, size, window)
    ]
    shifts = [
        widgets.IntSlider(value=d, min=0, max=max(w - 1, 0), description=f"shift {n}", continuous_update=False)
        for n, w, d in zip(names, window, shift)
    ]

    def update(_=None):
        for side, slider in zip(sides, shifts):
            slider.max = side.value - 1  # this also limits the slider's value
        image.value = draw(tuple(s.value for s in sides), tuple(s.value for s in shifts))

    for slider in (*sides, *shifts):
        slider.observe(update, "value")
    return widgets.VBox([widgets.HBox(sides), widgets.HBox(shifts), image])


def pictures(size, window, shift, roll, mask) -> list:
    """The figures of one setting of the sliders: the windows before and after the roll, and the mask."""
    shifted = window_numbers(size, window, shift)
    rolled = roll(torch.as_tensor(shifted)[None, ..., None], tuple(shift))[0, ..., 0]  # (*size)
    titles = [
        f"{len(np.unique(window_numbers(size, window)))} windows",
        f"shifted by {tuple(shift)}: {len(np.unique(shifted))}",
        "rolled",
    ]
    maps = [window_numbers(size, window), shifted, rolled]
    if len(size) == 2:
        first = regions_2d(maps, titles)
    else:
        first = windows_3d(maps[:2], titles[:2])
    grid = [s // w for s, w in zip(size, window)]
    return [first, shift_mask(mask(tuple(size), tuple(window), tuple(shift)), window, grid=grid)]


def package_roll(x, shift):
    return torch.roll(x, [-s for s in shift], list(range(1, 1 + len(shift))))


def stacked(figures) -> bytes:
    """Several figures, one below the other, as one PNG. It has few colours, to keep it small."""
    images = []
    for figure in figures:
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        images.append(Image.open(buffer).convert("RGB"))
    width = max(image.width for image in images)
    page = Image.new("RGB", (width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        page.paste(image, ((width - image.width) // 2, top))
        top += image.height
    buffer = BytesIO()
    page.quantize(128, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
