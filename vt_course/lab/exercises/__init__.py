"""The exercises of the course, by number: one file for each notebook."""

from vt_course.lab.exercises import (
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

EXERCISES = (
    start_here.EXERCISES
    | clips_and_tokens.EXERCISES
    | attention_and_cost.EXERCISES
    | swin.EXERCISES
    | video_swin.EXERCISES
    | mvit.EXERCISES
    | timesformer.EXERCISES
    | uniformer.EXERCISES
    | training.EXERCISES
    | does_it_use_time.EXERCISES
    | paper_companion.EXERCISES
)
