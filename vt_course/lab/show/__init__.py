"""Figures for notebook cells: each function draws the reader's own arrays and returns the figure.

Nothing is corrected: a partition with the wrong axis order looks scattered, and a roll with the wrong
sign shows the regions on the wrong side. Arrays are NumPy's or PyTorch's.

    python -m vt_course.lab.show        # draws notebooks/img/windows_27.png again
"""
from .attention import attention_matrices, attention_over_frames, shape_flow
from .clips import film_strip, play, sampling, token, views
from .compare import expected_got
from .curves import ceilings, confusion, cost_curves, curves, token_flow
from .dataset import dataset
from .explore import explore_windows
from .gallery import gallery
from .prediction import probabilities
from .spread import spread
from .training import accuracies, gradient_sizes, number_lines, ranks, schedules, training_path
from .windows import (
    bias_tables,
    table_cutouts,
    hierarchy_2d,
    index_matrix,
    regions_2d,
    shift_mask,
    window_numbers,
    windows_2d,
    windows_3d,
)
