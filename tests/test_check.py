"""The checks of the exercises, tested by mutation: each wrong solution gets its own diagnosis.

The catalogue of a check is run through the check itself; the wrong solutions in `solutions/` are written
again, from scratch, as a reader would write them.
"""

import re

import IPython.display
import pytest
import torch
from matplotlib.figure import Figure

from vt_course.lab import progress, show
from vt_course.lab.check import check
from vt_course.lab.exercise import Exercise
from vt_course.lab.exercises import EXERCISES

from solutions import RIGHT, WRONG
from solutions.video_swin import glue_view, partition, view_after_permute

pytestmark = pytest.mark.slow

CATALOGUE = [(number, name) for number, e in EXERCISES.items() for name, _ in e.mistakes]


def nothing(*args):
    return None


for number, exercise in EXERCISES.items():
    wanted = "a tensor" if exercise.definition(*exercise.cases()[0]).ndim else "a tensor or a number"
    WRONG[number]["no return"] = (nothing, f"returned nothing, not {wanted}; is there a `return`?")


def success(number):
    exercise = EXERCISES[number]
    return f"✓ exercise {number} ({exercise.title}): {len(exercise.cases())} cases\n"


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """The reader's file of progress."""
    path = tmp_path / "progress.csv"
    monkeypatch.setenv("VT_COURSE_PROGRESS", str(path))
    return path


@pytest.fixture
def shown(monkeypatch):
    """What the checks display, not drawn: that takes longer than the check."""
    pictures = []
    monkeypatch.setattr(show, "expected_got", lambda want, got, title: (want, got, title))
    monkeypatch.setattr(IPython.display, "display", pictures.append)
    return pictures


def verdict(number, function, capsys):
    use = check(number, function)
    out, err = capsys.readouterr()
    assert err == "" and use is (EXERCISES[number].piece if out.startswith("○") else function)
    return out


def equal(a, b):
    return a.shape == b.shape and torch.allclose(a.double(), b.double())


def diagnoses(text):
    """Every mistake of any catalogue that is named in a text."""
    return [name for name in dict(CATALOGUE).values() if name in text] + re.findall(
        "your axes are in another order", text
    )


@pytest.mark.parametrize("number, name", CATALOGUE, ids=lambda text: text[:40])
def test_each_mistake_of_the_catalogue_gets_its_own_diagnosis(number, name, shown, capsys):
    wrong = dict(EXERCISES[number].mistakes)[name]
    out = verdict(number, wrong, capsys)
    first, second = out.splitlines()
    assert first.startswith(f"✗ exercise {number}, on ") and second == f"  Likely: {name}"
    cases = EXERCISES[number].cases()
    same = [
        other
        for other, mistake in EXERCISES[number].mistakes
        if other != name and all(equal(mistake(*args), wrong(*args)) for args in cases)
    ]
    assert same == []


@pytest.mark.parametrize("number, name", [(n, name) for n, e in WRONG.items() for name in e])
def test_wrong_solutions_of_readers(number, name, shown, capsys):
    function, expected = WRONG[number][name]
    out = verdict(number, function, capsys)
    assert out.startswith(f"✗ exercise {number}, ") and expected in out, out
    assert out.count("Likely: ") <= 1 and "✓" not in out
    if not expected.startswith("  Likely: "):
        assert all(text in expected for text in diagnoses(out)), out
    assert len(shown) >= ("numbers differ" in out) and len(shown) <= 1
    for want, got, title in shown:
        assert want.shape == got.shape and not torch.equal(want, got)
        assert title == f"exercise {number}: the first case that fails"


@pytest.mark.parametrize(
    "number, name", [("4.1", "bfloat16"), ("4.2", "never filled"), ("4.4", "-inf"), ("4.4", "boolean"), ("4.5", "sum")]
)
def test_failures_are_drawn(number, name, monkeypatch):
    figures = []
    monkeypatch.setattr(IPython.display, "display", figures.append)
    check(number, WRONG[number][name][0])
    (figure,) = figures
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["expected", "got"]


@pytest.mark.parametrize("number, name", [(n, name) for n, e in RIGHT.items() for name in e])
def test_right_solutions_pass_with_one_constant_line(number, name, shown, capsys):
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert verdict(number, RIGHT[number][name], capsys) == success(number)
    assert shown == []


def test_every_exercise_is_tested_enough():
    assert list(RIGHT) == list(WRONG) == list(EXERCISES)
    assert all(len(RIGHT[n]) >= 3 and len(WRONG[n]) >= 6 for n in EXERCISES)


@pytest.mark.parametrize("number", EXERCISES)
def test_a_stub_is_not_attempted_yet(number, shown, capsys):
    def stub(*args):
        raise NotImplementedError(f"exercise {number}")

    out = verdict(number, stub, capsys)
    assert out == (
        f"○ exercise {number} is not attempted yet; until it is, the cells below use the course's own `stub`\n"
    )
    assert shown == []


def subtract_bools(low, high, predicted):
    return (low > 0) - (high < 0)


def not_in_torch(low, high, predicted):
    return low.to_mkldnn().cumsum(0)


def without_forward(low, high, predicted):
    return torch.nn.Module()(low)


def bare_in_torch(low, high, predicted):
    return torch.distributions.Distribution(validate_args=False).log_prob(low)


def stub_of_another(low, high, predicted):
    raise NotImplementedError("exercise 9.2")


@pytest.mark.parametrize("function", [subtract_bools, not_in_torch, without_forward, bare_in_torch, stub_of_another])
def test_only_the_stub_itself_counts_as_not_attempted(function, shown, capsys):
    out = verdict("9.4", function, capsys)
    assert out.startswith("✗ exercise 9.4, your function raised NotImplementedError on low of shape")


def test_a_bare_stub_is_not_attempted_yet(shown, capsys):
    def stub(low, high, predicted):
        raise NotImplementedError

    assert verdict("9.4", stub, capsys).startswith("○ exercise 9.4 is not attempted yet")


def test_the_courses_function_is_no_attempt_of_the_reader(notes, capsys):
    def window_partition(x, M):
        raise NotImplementedError("exercise 3.1")

    window_partition = check("3.1", window_partition)  # as in the notebook, where the cell may run again
    capsys.readouterr()
    assert check("3.1", window_partition) is window_partition
    out = capsys.readouterr().out
    assert out.startswith("○ exercise 3.1 is not attempted yet: ") and "✓" not in out and not notes.exists()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("boom"), IndexError(), KeyError("x"), ZeroDivisionError("no"), RecursionError(), AssertionError()],
)
def test_whatever_a_solution_raises_is_reported(error, shown, capsys):
    def broken(x, shift):
        raise error

    out = verdict("4.3", broken, capsys)
    assert out.startswith(
        f"✗ exercise 4.3, your function raised {type(error).__name__} on x of shape (2, 4, 6, 5, 3), shift=(1, 2, 3): "
    )


def test_advice_on_view_after_permute(shown, capsys):
    for number, function in (("4.1", view_after_permute), ("4.2", glue_view)):
        out = verdict(number, function, capsys)
        assert out.endswith("  Likely: `view` cannot follow `permute`, whose result is not contiguous: use `reshape`\n")


def test_the_first_difference_is_named_with_both_values(shown, capsys):
    def off(x, window):
        out = partition(x, window)
        if x.shape[-1] == 3:  # the second case
            out[7, 5, 2], out[7, 11, 0], out[20, 0, 0] = 9, 9, 9
        return out

    torch.manual_seed(0)
    want = partition(*EXERCISES["4.1"].cases()[1])[7, 5, 2]
    assert verdict("4.1", off, capsys) == (
        "✗ exercise 4.1, on x of shape (2, 4, 6, 9, 3), window=(2, 2, 3): 3 of 1,296 numbers differ, "
        f"first at index (7, 5, 2): got 9, wanted {want:.4g}\n"
    )


def test_a_difference_of_rounding_is_none(shown, capsys):
    assert verdict("4.6", lambda w, pt: RIGHT["4.6"]["stack"](w, pt) * (1 + 2e-6), capsys) == success("4.6")
    assert "differ" in verdict("4.6", lambda w, pt: RIGHT["4.6"]["stack"](w, pt) * (1 + 1e-4), capsys)


def test_an_interrupt_is_not_swallowed():
    def interrupted(x, shift):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("4.3", interrupted)


def test_an_exercise_that_does_not_exist():
    with pytest.raises(KeyError):
        check("99.1", nothing)


# ---------------------------------------------------------------- numbers and gradients


@pytest.fixture
def toy(monkeypatch):
    """Put an exercise of one's own into the course: toy(definition, cases, ...)."""

    def put(definition, cases, **settings):
        exercise = Exercise("toy", definition, lambda: cases, lambda *args: "the shape", (), definition, **settings)
        monkeypatch.setitem(EXERCISES, "0.1", exercise)

    return put


def test_a_plain_number_is_an_answer(toy, shown, capsys):
    toy(lambda n: torch.tensor(n * 1000), [(2,), (3,)])
    assert verdict("0.1", lambda n: 1000 * n, capsys) == success("0.1")
    assert verdict("0.1", lambda n: 1000.0 * n, capsys) == success("0.1")
    assert verdict("0.1", lambda n: 100 * n, capsys) == "✗ exercise 0.1, on n=2: got 200, wanted 2,000\n"
    assert "returned a bool" in verdict("0.1", lambda n: True, capsys)
    assert shown == []


def test_cases_may_differ_in_their_axes(toy, shown, capsys):
    toy(lambda x: 2 * x, [(torch.ones(2),), (torch.ones(2, 3),)])
    assert "numbers differ" in verdict("0.1", lambda x: x, capsys)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x, w: x.detach() * w, "the gradient of `x` is not"),
        (lambda x, w: x * w.detach(), "the gradient of `w` is not"),
        (lambda x, w: x.data * w.data, "no gradient reaches the input"),
        (lambda x, w: torch.tensor((x * w).tolist()), "no gradient reaches the input"),
        (lambda x, w: 2 * x * w - (x * w).detach(), "the gradient of `x` is not"),
    ],
)
def test_gradients_are_compared_where_they_matter(wrong, words, toy, shown, capsys):
    toy(lambda x, w: x * w, [(torch.randn(2, 3), torch.randn(3))], gradient=True)
    assert verdict("0.1", lambda x, w: w * x, capsys) == success("0.1")
    out = verdict("0.1", wrong, capsys)
    assert out.startswith("✗ exercise 0.1, on x of shape (2, 3), w of shape (3,): the result is right, but " + words)
    toy(lambda x, w: x * w, [(torch.randn(2, 3), torch.randn(3))])
    assert verdict("0.1", wrong, capsys) == success("0.1")


@pytest.mark.parametrize("number", EXERCISES)
def test_the_packages_piece_is_the_definition(number):
    """Witness 1 = witness 2: what stands in for an unsolved exercise."""
    exercise = EXERCISES[number]
    for args in exercise.cases():
        want, got = exercise.definition(*args), exercise.driven(exercise.piece)(*args)
        assert want.shape == got.shape and torch.allclose(got.to(want.dtype), want, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- progress


def test_progress_notes_what_passed_once(notes, capsys):
    right = RIGHT["4.1"]["einops"]
    check("4.1", right, solution=True)  # the course's own solution is not the reader's
    check("4.1", nothing)
    assert not notes.exists() and all(row["passed"] is None for row in progress.progress_table())
    check("4.1", right)
    check("4.1", right)
    check("4.3", RIGHT["4.3"]["roll"])
    head, first, second = notes.read_text(encoding="utf-8").splitlines()
    assert head == "exercise,passed" and re.fullmatch(r"4\.1,\d{4}-\d\d-\d\d \d\d:\d\d", first)
    done = {row["exercise"]: row["passed"] for row in progress.progress_table()}
    assert list(done) == list(EXERCISES) and {n for n, when in done.items() if when} == {"4.1", "4.3"}
    assert done["4.1"] == first.split(",")[1]


def test_progress_can_be_turned_off(notes, monkeypatch, capsys):
    monkeypatch.setenv("VT_COURSE_PROGRESS", "")
    check("4.3", RIGHT["4.3"]["roll"])
    assert capsys.readouterr().out == success("4.3") and progress.progress_file() is None


def test_a_file_of_progress_that_cannot_be_used(notes, capsys):
    notes.write_text("my shopping list\n", encoding="utf-8")
    check("4.3", RIGHT["4.3"]["roll"])
    out = capsys.readouterr().out
    assert out.startswith(success("4.3")) and "is not a record of progress" in out
    assert notes.read_text(encoding="utf-8") == "my shopping list\n"
    notes.unlink()
    notes.mkdir()
    check("4.3", RIGHT["4.3"]["roll"])
    assert "`vt-course progress` will not know" in capsys.readouterr().out
