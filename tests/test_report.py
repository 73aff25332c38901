"""Printed lines of the notebooks: what they say, and that no measured value gets into them."""

import math

import pytest
import torch

from vt_course.lab.report import agree, differ, report, text, within


def printed(capsys, function, *args, **settings):
    assert function(*args, **settings) is None
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize(
    "value, wanted",
    [
        (25088, "25,088"),
        (-1234, "-1,234"),
        (True, "yes"),
        (False, "no"),
        ((2, 8, 8), "2 × 8 × 8"),
        ([1568, 96], "1,568 × 96"),
        (torch.Size([1, 2]), "1 × 2"),
        ((0.5, 1), "(0.5, 1)"),
        ("88.0 M", "88.0 M"),
        (None, "None"),
    ],
)
def test_text(value, wanted):
    assert text(value) == wanted


def test_report_aligns_names(capsys):
    assert printed(capsys, report, windows=27, tokens_in_each=[8, 64], cyclic=True) == (
        "windows         27\ntokens in each  8 × 64\ncyclic          yes\n"
    )


def test_agree_prints_the_bound_and_not_the_difference(capsys):
    want = torch.linspace(-1, 1, 1536).reshape(2, 768)
    line = "✓ ours = theirs: 1,536 numbers, |Δ| ≤ 1e-05\n"
    for noise in (0, 1e-7, 4e-6):
        assert printed(capsys, agree, "ours = theirs", want + noise, want) == line
    assert printed(capsys, agree, "loose", want + 5e-4, want, tol=1e-3) == ("✓ loose: 1,536 numbers, |Δ| ≤ 1e-03\n")
    assert printed(capsys, agree, "integers", torch.arange(3), torch.arange(3)) == (
        "✓ integers: 3 numbers, |Δ| ≤ 1e-05 · max(1, |x|)\n"
    )


@pytest.mark.parametrize(
    "got, message",
    [
        (torch.ones(2, 3), r"^logits: shape 2 × 3, wanted 3 × 2$"),
        (
            torch.tensor([[1.0, 1], [1, 1.5], [1, 1]]),
            r"(?s)^logits: .*Greatest absolute difference: 0\.5 at index \(1, 1\)",
        ),
        (torch.full((3, 2), math.nan), r"(?s)^logits: .*6 / 6"),
        (torch.ones(3, 2) + 1e-4, r"^logits: "),
        (torch.ones(3, 2, dtype=torch.float64), r"(?s)^logits: .*dtype"),
    ],
)
def test_agree_says_where_and_by_how_much(got, message, capsys):
    with pytest.raises(AssertionError, match=message):
        agree("logits", got, torch.ones(3, 2))
    assert capsys.readouterr().out == ""


def test_agree_scales_with_large_numbers_and_not_with_small_ones(capsys):
    agree("large", torch.tensor([1e4 + 0.05]), torch.tensor([1e4]))
    agree("small", torch.tensor([1e-9]), torch.tensor([0.0]))
    assert capsys.readouterr().out == (
        "✓ large: 1 numbers, |Δ| ≤ 1e-05 · max(1, |x|)\n✓ small: 1 numbers, |Δ| ≤ 1e-05\n"
    )
    for got, want in ((1e4 + 0.5, 1e4), (1 + 1.5e-5, 1.0)):  # the second: a bound, not the sum of two
        with pytest.raises(AssertionError):
            agree("large", torch.tensor([got]), torch.tensor([want]))


def test_differ_prints_the_bound_and_not_the_difference(capsys):
    zero = torch.zeros(4, 4)
    for gap in (0.02, 7.5):
        assert printed(capsys, differ, "without the mask", zero + gap, zero) == (
            "≠ without the mask: max |Δ| ≥ 1e-02\n"
        )
    assert printed(capsys, differ, "much", zero - 3, zero, at_least=0.5) == "≠ much: max |Δ| ≥ 5e-01\n"
    one = zero.clone()
    one[2, 3] = 1
    differ("one number is enough", one, zero)


@pytest.mark.parametrize(
    "got, message",
    [
        (0.001, "^control: the largest difference is 1.00e-03, expected at least 1e-02$"),
        (0.0, "^control: the largest difference is 0.00e[+]00, expected at least 1e-02$"),
        (math.nan, "^control: the largest difference is nan, expected at least 1e-02$"),
    ],
)
def test_differ_fails_when_nothing_differs(got, message, capsys):
    with pytest.raises(AssertionError, match=message):
        differ("control", torch.full((2, 2), got), torch.zeros(2, 2))
    assert capsys.readouterr().out == ""


def test_differ_counts_integers_and_booleans(capsys):
    differ("integers", torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]), at_least=1)
    differ("booleans", torch.tensor([True, False]), torch.tensor([True, True]), at_least=1)
    with pytest.raises(AssertionError, match="^shapes: shape 2 × 1, wanted 2$"):
        differ("shapes", torch.zeros(2, 1), torch.ones(2))


def test_within_prints_the_interval_and_not_the_value(capsys):
    for value in (90, 93.7, 100, torch.tensor(95.0)):
        assert printed(capsys, within, "top-1", value, 90, 100, " %") == ("✓ top-1: between 90 and 100 %\n")
    assert printed(capsys, within, "ratio", 0.5, 0.25, 0.75) == "✓ ratio: between 0.25 and 0.75\n"


@pytest.mark.parametrize(
    "value, message",
    [
        (89.94, "^top-1 is 89.94 %, expected 90 to 100 %$"),
        (100.5, "^top-1 is 100.5 %, expected 90 to 100 %$"),
        (math.nan, "^top-1 is nan %, expected 90 to 100 %$"),
    ],
)
def test_within_fails_outside(value, message, capsys):
    with pytest.raises(AssertionError, match=message):
        within("top-1", value, 90, 100, " %")
    assert capsys.readouterr().out == ""
