"""Figures for notebook cells: each function draws the reader's own arrays and returns the figure.

Nothing is corrected: a partition with the wrong axis order looks scattered, and a roll with the wrong
sign shows the regions on the wrong side. Arrays are NumPy's or PyTorch's.

    python -m vt_course.lab.show        # draws notebooks/img/windows_27.png again
"""

from vt_course.lab.show.anatomy import anatomy
from vt_course.lab.show.attention import attention_matrices, attention_over_frames, shape_flow
from vt_course.lab.show.clips import film_strip, play, sampling, token, views
from vt_course.lab.show.companion import landscape, statuses
from vt_course.lab.show.compare import expected_got
from vt_course.lab.show.curves import ceilings, confusion, cost_curves, curves, token_flow
from vt_course.lab.show.dataset import dataset
from vt_course.lab.show.experiments import intervals, orders, tradeoff
from vt_course.lab.show.explanation import cascades, explanation, overlaid, play_explanation
from vt_course.lab.show.explore import explore_windows
from vt_course.lab.show.families import families
from vt_course.lab.show.gallery import gallery
from vt_course.lab.show.prediction import probabilities
from vt_course.lab.show.spread import spread
from vt_course.lab.show.training import accuracies, gradient_sizes, number_lines, ranks, schedules, training_path
from vt_course.lab.show.windows import (
    bias_tables,
    hierarchy_2d,
    index_matrix,
    marked_mask,
    mask_of_window,
    regions_2d,
    shift_mask,
    table_cutouts,
    window_numbers,
    windows_2d,
    windows_3d,
)
