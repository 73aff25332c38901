"""Right and wrong solutions of every exercise, as readers would write them: one file a notebook.

RIGHT: number -> name -> a solution that must pass.
WRONG: number -> name -> (a solution that must fail, what the verdict must say). The verdict is matched literally;
`likely(number, words)` stands for the line that names one mistake of the catalogue.
"""

from . import (
    attention_and_cost,
    clips_and_tokens,
    does_it_use_time,
    mvit,
    paper_companion,
    start_here,
    swin,
    timesformer,
    training,
    uniformer,
    video_swin,
)

MODULES = [
    start_here,
    clips_and_tokens,
    attention_and_cost,
    swin,
    video_swin,
    mvit,
    timesformer,
    uniformer,
    training,
    does_it_use_time,
    paper_companion,
]
RIGHT = {number: solutions for module in MODULES for number, solutions in module.RIGHT.items()}
WRONG = {number: solutions for module in MODULES for number, solutions in module.WRONG.items()}
