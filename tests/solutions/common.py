"""What the lists of solutions share."""

from vt_course.lab.exercises import EXERCISES


def likely(number, words):
    """The catalogue's full text of the one mistake that holds `words`."""
    (text,) = [name for name, _ in EXERCISES[number].mistakes if words in name]
    return f"  Likely: {text}\n"


def overwrite(right):
    """Right, but the input is used as scratch paper."""

    def function(x, *args):
        out = right(x, *args).clone()
        x.zero_()
        return out

    return function
