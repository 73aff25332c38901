"""Figures of single images."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.lab.show.style import array, bare, figure, headline


@figure
def gallery(images, names=None, title: str | None = None, columns: int = 8, width: float = 10) -> Figure:
    """Images uint8 (n, H, W, 3) in rows of `columns`. `width`: of the figure, in inches.

    `names`: one for each image, or one for each column, which stands above the first row.
    """
    images = array(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != "uint8" or not len(images):
        raise CourseError(f"images must be uint8 (n, H, W, 3), not {images.dtype} {images.shape}")
    n, H, W, _ = images.shape
    columns = min(columns, n)
    names = list(names) if names is not None else [""] * n
    if len(names) not in (n, columns):
        raise CourseError(
            f"{len(names)} names for {n} images in {columns} columns: give one for each image or each column"
        )
    rows = -(-n // columns)
    side, line = width / columns, 0.28 * bool(any(names))  # inches
    fig, grid = plt.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(width, rows * (side * H / W + (line if len(names) == n else 0)) + line + 0.35 * bool(title)),
    )
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for axes in grid.flat:
        bare(axes)
    for i, (axes, image) in enumerate(zip(grid.flat, images)):
        axes.imshow(image // 8 * 8 + 4, interpolation="nearest")  # fewer colours make a smaller file
        if i < len(names):
            axes.set_title(names[i], size=11, pad=3)
    headline(fig, title)
    return fig
