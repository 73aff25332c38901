"""The kinds of mistakes that the checks find by search: each names what was done wrong, and nothing else.

The wrong solutions here are written as a reader would; none of them stands in a catalogue.
"""

import ast
import builtins
import math
import re
import sys
import time

import IPython.display
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from vt_course import repo_root
from vt_course.lab import kinds, show
from vt_course.lab.check import check
from vt_course.lab.exercise import Exercise
from vt_course.lab.exercises import EXERCISES
from vt_course.lab.kinds import errors, explain, fits
from vt_course.lab.kinds.common import Outcome, attempt, clone
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.publish import hygiene
from vt_course.publish.source import from_source
from vt_course.publish.student import student_edition
from vt_course.publish.tags import parts

from solutions import RIGHT

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No file of progress, no picture, and time enough on a machine with other work."""
    monkeypatch.setattr(kinds, "SECONDS", 8)
    monkeypatch.setenv("VT_COURSE_PROGRESS", "")
    monkeypatch.setattr(show, "expected_got", lambda *args, **kwargs: None)
    monkeypatch.setattr(IPython.display, "display", lambda figure: None)


def verdict(number, function, capsys):
    check(number, function)
    out, err = capsys.readouterr()
    assert err == ""
    return out


# ---------------------------------------------------------------- axes


CUT_3D = "b (T p) (H h) (W w) c -> (b T H W) (p h w) c"


def cut(pattern=CUT_3D):
    return lambda x, w: rearrange(x, pattern, p=w[0], h=w[1], w=w[2])


def glue(pattern):
    return lambda x, w, s: rearrange(x, pattern, p=w[0], h=w[1], w=w[2], T=s[0] // w[0], H=s[1] // w[1], W=s[2] // w[2])


def glue_2d(pattern):
    return lambda x, M, H, W: rearrange(x, pattern, i=M, j=M, h=H // M, w=W // M)


def pad_even(x):
    return F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))


def crop_even(x):
    return x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]


AXES = [
    ("4.1", cut("b (T p) (H h) (W w) c -> (b H T W) (p h w) c"), "(B · H/Mh · T/P · W/Mw), slowest first"),
    ("4.1", cut("b (T p) (H h) (W w) c -> (b T H W) (h p w) c"), "axis 1 your numbers run (Mh · P · Mw)"),
    (
        "4.1",
        cut("b (T p) (H h) (W w) c -> (b W T H) (w p h) c"),
        "(B · W/Mw · T/P · H/Mh), slowest first; they must run (B · T/P · H/Mh · W/Mw); and inside axis 1 your numbers "
        "run (Mw · P · Mh)",
    ),
    ("4.1", cut("b (T p) (h H) (W w) c -> (b T H W) (p h w) c"), "you split axis 2 of the input as (Mh · H/Mh)"),
    ("4.1", cut("b (T p) (H h) (W w) c -> (b T H W) p (h w) c"), "(P), (Mh · Mw), (C); they must be"),
    ("4.1", lambda x, w: cut()(x[:1], w), "of B only the first"),
    ("4.1", lambda x, w: cut()(x, (w[0], w[2], w[2])), "Mw stands in place of Mh"),
    ("4.2", glue("(b W T H) (p h w) c -> b (T p) (H h) (W w) c"), "axis 0 of the input as (B · W/Mw · T/P · H/Mh)"),
    ("4.2", glue("(b T H W) (h w p) c -> b (T p) (H h) (W w) c"), "axis 1 of the input as (Mh · Mw · P)"),
    ("4.2", glue("(b T H W) (p h w) c -> b (p T) (H h) (W w) c"), "axis 1 your numbers run (P · T/P)"),
    ("3.2", glue_2d("(b h w) (i j) c -> b (h i) (j w) c"), "axis 2 your numbers run (token column · window column)"),
    ("3.1", lambda x, M: rearrange(x, "b (h i) (j w) c -> (b h w) (i j) c", i=M, j=M), "axis 2 of the input as (token"),
    (
        "1.5",
        lambda x, t: rearrange(x, "b c (T t) (H h) (W w) -> b T H W (h t c w)", t=t[0], h=t[1], w=t[2]),
        "axis 4 your numbers run (row · frame · colour · column)",
    ),
    ("1.4", lambda x, p: rearrange(x, "b c (H h) (W w) -> b (W H) (c h w)", h=p[0], w=p[1]), "(W/pw · H/ph)"),
    ("3.6", lambda x: rearrange(pad_even(x), "b (H i) (W j) c -> b H W (c i j)", i=2, j=2), "(channel · row offset"),
    ("3.6", lambda x: reduce(pad_even(x), "b (H i) (W j) c -> b H W c", "sum", i=2, j=2), "row offset are added up"),
    ("3.6", lambda x: rearrange(crop_even(x), "b (H i) (W j) c -> b H W (j i c)", i=2, j=2), "cropped instead"),
]  # fmt: skip


# ---------------------------------------------------------------- operations


def heads(x, w_qkv, b_qkv, num_heads):
    return rearrange(F.linear(x, w_qkv, b_qkv), "b n (s h d) -> s b h n d", s=3, h=num_heads)


def multi_head(softmax=lambda s: s.softmax(-1), merge="b h n d -> b n (h d)", scale=True, order=(0, 1, 2), residual=0):
    def function(x, w_qkv, b_qkv, w_out, b_out, num_heads):
        q, k, v = (heads(x, w_qkv, b_qkv, num_heads)[i] for i in order)
        out = softmax(q @ k.mT / (q.shape[-1] ** 0.5 if scale else 1)) @ v
        return F.linear(rearrange(out, merge), w_out, b_out) + residual * x

    return function


def windowed(mask=lambda s, m: s + m, softmax=lambda s: s.softmax(-1), scale=0.5, bias=1.0):
    def function(q, k, v, b, m):
        m = m.repeat(len(q) // len(m), 1, 1)[:, None]
        return softmax(mask(q @ k.mT / q.shape[-1] ** scale + bias * b, m)) @ v

    return function


def normalised(function, axes):
    return lambda s: function(s) / function(s).sum(axes, keepdim=True)


OPERATIONS = [
    ("2.1", lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).softmax(1), "runs over the heads"),
    ("2.1", lambda q, k: normalised(torch.abs, -1)(q @ k.mT / q.shape[-1] ** 0.5), "absolute values"),
    ("2.1", lambda q, k: (q @ k.mT / q.shape[-1]).softmax(-2), "One: the softmax runs over the queries"),
    ("2.2", multi_head(order=(2, 0, 1)), "you take v, q, k for them"),
    ("2.2", multi_head(residual=-1), "`x` is subtracted from the result"),
    ("2.2", multi_head(lambda s: s.softmax(1), merge="b h n d -> b n (d h)"), "The other: the heads are interleaved"),
    ("2.2", multi_head(merge="b h n d -> b n (d h)", scale=False), "One: the logits are not scaled"),
    ("3.3", windowed(mask=lambda s, m: s + (m < 0)), "forbidden pairs get 1 added instead of -100"),
    ("3.3", windowed(softmax=normalised(lambda s: s, -1)), "divided by their sum, without exp"),
    ("3.3", windowed(scale=1, bias=2), "The other: the bias is added twice"),
    ("3.3", windowed(mask=lambda s, m: s * (m == 0)), "set to 0, whose exp is 1"),
]  # fmt: skip


# ---------------------------------------------------------------- numbers, rounding, types


def window_macs(h, w, C, M, up=lambda n, M: -(-n // M) * M, second=lambda M: M * M):
    h, w = up(h, M), up(w, M)
    return 4 * h * w * C**2 + 2 * second(M) * h * w * C


def uniform(point=lambda i, n, f: (2 * i + 1) * n / (2 * f), rounding=torch.floor):
    return lambda n, f: rounding(point(torch.arange(f).double(), n, f)).long()


def dense(n, frames, stride, position, start=lambda room: max(room, 0) // 2, end=lambda p, n: p % n):
    first = 0 if position == "start" else start(n - (frames - 1) * stride - 1)
    return end(first + torch.arange(frames) * stride, n)


NUMBERS = [
    ("2.4", lambda h, w, C: (4 * h * w * C**2 + 2 * (h * w) ** 2 * C) // 2, "your number is 1/2 of the right one"),
    ("2.4", lambda h, w, C: 4 * h * w * C + 2 * (h * w) ** 2, "a factor `C` is missing"),
    ("2.4", lambda h, w, C: 4 * h * w * C**2 + 2 * h * w * w * C, "in the term 2(hw)²C a factor h is missing"),
    ("2.5", lambda h, w, C, M: window_macs(h, w, C, M) // M**2, "a factor `M`² is missing"),
    ("2.5", lambda h, w, C, M: window_macs(h, w, C, M, second=lambda M: M**3), "there is one factor M too many"),
    ("2.5", lambda h, w, C, M: window_macs(h, w, C, M, up=lambda n, M: n + M - 1), ""),
    ("2.5", lambda h, w, C, M: window_macs(h, w, C, M, up=lambda n, M: n + n % M), ""),
    ("2.6", lambda T, H, W, p, h, b, e: b * h * e * (T * (H // p) * (W // p) + 2) ** 2, "two class tokens"),
    ("1.2", uniform(rounding=torch.ceil), "the points are rounded up"),
    ("1.2", uniform(point=lambda i, n, f: i * n / max(f - 1, 1), rounding=torch.round), ""),
    ("1.2", uniform(rounding=lambda t: t + 1), "your numbers are too large by 1"),
    ("1.2", lambda n, f: (2 * torch.arange(f) + 1) * n / (2 * f), "divide with `//`"),
    ("1.1", lambda n, f, s, p="centre": dense(n, f, s, p).flip(0), "the frames run backwards"),
    ("1.1", lambda n, f, s, p="centre": dense(n, f, s, p, end=lambda p, n: p % (n + 1)), "the loop is one frame long"),
    ("1.1", lambda n, f, s, p="centre": dense(n, f, s, p).double(), "right, but they are floating-point"),
    ("1.3", lambda h, w, s: right("1.3")(h, w, s)[:, [2, 3, 0, 1]], "yours is bottom, right, top"),
    ("4.4", lambda z, w, s: right("4.4")(z, w, s).long(), "the numbers are right, but they are whole numbers"),
    ("4.3", lambda x, s: x.roll(-s[1], 2), "only height is rolled"),
    ("4.3", lambda x, s: x.roll((-s[0], s[1], s[2]), (1, 2, 3)), "the shift along height and width has the other sign"),
    ("4.6", lambda w, pt: right("4.6")(w, pt) / w.shape[1], "a factor"),
    ("8.3", lambda *a: right("8.3")(*a)[[1, 2, 0]], "along axis 0 the places come in the order 1, 2, 0"),
    ("8.4", lambda x, y, e: right("8.4")(x, y, e) / math.log(2), "the logarithm has base 2"),
    ("8.5", lambda n, limit: torch.clamp(limit / n.square().mean().sqrt(), max=1), "the squares are averaged"),
    ("8.7", lambda g, n: g * (n / n.sum())[:, None], "a sum over axis 0 of your result is missing"),
]  # fmt: skip


def right(number):
    return next(iter(RIGHT[number].values()))


# ---------------------------------------------------------------- tables


def rows(window, digits=None, moved=True, indexing="ij"):
    grid = torch.meshgrid(*map(torch.arange, window), indexing=indexing)
    place = torch.stack([g.flatten() for g in grid])
    offsets = place[:, :, None] - place[:, None]
    P, A, B = window
    moves = (P - 1, A - 1, B - 1) if moved is True else moved(P, A, B)
    t, h, w = (o + m for o, m in zip(offsets, moves))
    return t * (2 * A - 1) * (2 * B - 1) + h * (2 * B - 1) + w if digits is None else digits(t, h, w, P, A, B)


def relative(index):
    def function(table, n):
        i = torch.arange(n)
        return table[index(i[:, None] - i, n)].permute(2, 0, 1)

    return function


TABLES = [
    ("4.5", lambda w: rows(w, moved=lambda P, A, B: (0, A - 1, B - 1)), "along time is not moved to start at 0"),
    ("4.5", lambda w: rows(w, lambda t, h, x, P, A, B: (t + h) * (2 * B - 1) + x), "multiplied by (2Mw-1); it must"),
    ("4.5", lambda w: rows(w, lambda t, h, x, P, A, B: (t * (2 * A - 1) + h) * 2 * B + x), "the digit of width"),
    ("4.5", lambda w: rows(w) - 1, "every row is one too small: is Mw-2 added"),
    ("4.5", lambda w: rows(w, indexing="xy"), 'indexing="xy"'),
    ("2.3", relative(lambda d, n: (d + n).clamp(0, 2 * n - 2)), "One of them: rows outside the table"),
    ("2.3", relative(lambda d, n: d % n), "modulo n"),
    ("3.5", lambda t, M: bias(t, M, lambda h, w: (h + M - 1) * (2 * M - 1) + w), "along the columns is not moved"),
    ("3.5", lambda t, M: bias(t, M, lambda h, w: (h + M - 1) * (2 * M - 1) + (w + M - 1)).flip(0), ""),
]  # fmt: skip


def bias(table, M, row):
    h, w = torch.arange(M * M) // M, torch.arange(M * M) % M
    return table[row(h[:, None] - h, w[:, None] - w)].permute(2, 0, 1)


# ---------------------------------------------------------------- members of kinds that a fresh reader met


def linear_rows(table, M):
    """(M·M, M·M, h): the right look-up, heads last."""
    return bias(table, M, lambda h, w: (h + M - 1) * (2 * M - 1) + w + M - 1).permute(1, 2, 0)


def patches(T, H, W, p):
    return T * (H // p) * (W // p)


def masked_weights(mask):
    def function(q, k, v, b, m):
        return ((q @ k.mT / q.shape[-1] ** 0.5 + b).softmax(-1) * mask(m.repeat(len(q) // len(m), 1, 1)[:, None])) @ v

    return function


def spread(end, rounded=torch.floor):
    def function(n, f, s, position="centre"):
        first = max(n - (f - 1) * s - 1, 0) // 2 if position == "centre" else 0
        return rounded(torch.linspace(first, first + end(f, s), f)).long() % n

    return function


def glue_one_clip(x, window, size):
    x = x.view(*(n // m for n, m in zip(size, window)), *window, x.shape[-1]).permute(0, 3, 1, 4, 2, 5, 6)
    return x.reshape(1, *size, x.shape[-1])


def cut_one_image(x, M):
    _, H, W, C = x.shape
    return x.reshape(H // M, M, W // M, M, C).transpose(1, 2).reshape(-1, M * M, C)


def backwards(pattern, axes):
    """Cut like `rearrange`, with some axes of the result read from their end: "left -> middle -> right"."""
    left, middle, right = pattern.split("->")
    return lambda x, **sizes: rearrange(rearrange(x, f"{left}->{middle}", **sizes).flip(axes), f"{middle}->{right}")


TUBES_BACKWARDS = backwards("b c (T t) (H h) (W w) -> b T H W c t h w -> b T H W (c t h w)", (5,))
CUT_BACKWARDS = backwards("b (T p) (H h) (W w) c -> b T H W p h w c -> (b T H W) (p h w) c", (4, 6))


def centred(start):
    def function(n, f, s, position="centre"):
        first = start(n, f, s) if position == "centre" else 0
        return (first + torch.arange(f) * s) % n

    return function


def crops(half):
    """Three crops whose centres are found by half(side, size)."""

    def function(h, w, s):
        top, left = half(h, s), half(w, s)
        rows, columns = ((top,) * 3, (0, left, w - s)) if w >= h else ((0, top, h - s), (left,) * 3)
        return torch.tensor([(y, x, y + s, x + s) for y, x in zip(rows, columns)])

    return function


def odd_numbers(divide):
    return lambda n, f: torch.tensor([divide(2 * i + 1, n, f) for i in range(f)])


def swapped(t):
    """As if the last two axes were exchanged, with `view` instead of `transpose`."""
    return t.reshape(*t.shape[:-2], t.shape[-1], t.shape[-2])


def attention_on(key=lambda k: k.mT, value=lambda v: v):
    def function(q, k, v, b, m):
        m = m.repeat(len(q) // len(m), 1, 1)[:, None]
        return (q @ key(k) / q.shape[-1] ** 0.5 + b + m).softmax(-1) @ value(v)

    return function


def heads_on(key=lambda k: k.mT, value=lambda v: v):
    def function(x, w_qkv, b_qkv, w_out, b_out, num_heads):
        q, k, v = heads(x, w_qkv, b_qkv, num_heads)
        out = (q @ key(k) / q.shape[-1] ** 0.5).softmax(-1) @ value(v)
        return F.linear(rearrange(out, "b h n d -> b n (h d)"), w_out, b_out)

    return function


def numbers_of_windows(H, W, M, shift):
    """(H, W): the shifted windows, before any roll."""
    r, c = ((torch.arange(n) - s) // M + (s > 0) for n, s in zip((H, W), shift))
    return r[:, None] * (c.max() + 1) + c


def mask_3d(size, window, shift, roll=None):
    numbers = torch.zeros(size, dtype=torch.long)
    for axis, (n, m, s) in enumerate(zip(size, window, shift)):
        piece = (torch.arange(n) - s) // m + 1
        numbers = 100 * numbers + piece.view([-1 if a == axis else 1 for a in range(3)])
    numbers = numbers.roll([-s for s in shift], (0, 1, 2)) if roll is None else roll(numbers)
    p, h, w = window
    groups = rearrange(numbers, "(T p) (H h) (W w) -> (T H W) (p h w)", p=p, h=h, w=w)
    return torch.where(groups[:, :, None] == groups[:, None], 0.0, -100.0)


def flat_rows(window):
    n = torch.arange(math.prod(window))
    return n[:, None] - n


BLIND = [
    ("1.5", lambda x, p: TUBES_BACKWARDS(x, t=p[0], h=p[1], w=p[2]), "along frame your numbers run backwards"),
    ("4.1", lambda x, w: CUT_BACKWARDS(x, p=w[0], h=w[1], w=w[2]), "along Mw and along P your numbers run backwards"),
    ("3.2", lambda x, M, H, W: glue_2d("(b h w) (i j) c -> b (h i) (w j) c")(x.flip(1), M, H, W), "backwards"),
    ("1.1", centred(lambda n, f, s: max(n // 2 - ((f - 1) * s + 1) // 2, 0)), "num_frames // 2 - span // 2; a clip"),
    ("1.1", centred(lambda n, f, s: n // 2 - f // 2 * s), "- frames // 2 · stride, also where that is negative"),
    ("1.1", centred(lambda n, f, s: round(max(n - (f - 1) * s - 1, 0) / 2)), "`round` takes the even one of two"),
    ("1.3", crops(lambda side, size: side // 2 - size // 2), "side // 2 - size // 2; a crop in the centre"),
    ("1.3", crops(lambda side, size: (side - 1) // 2 - size // 2), "(side - 1) // 2 - size // 2"),
    ("1.2", odd_numbers(lambda k, n, f: k * n // f), "the denominator is frames, and must be 2 · frames"),
    ("1.2", odd_numbers(lambda k, n, f: k * (n // 2) // f), "⌊(2i + 1) · ⌊num_frames / 2⌋ / frames⌋; it must be"),
    ("1.2", odd_numbers(lambda k, n, f: min(k * n // f, n - 1)), "num_frames / frames⌋, kept inside the video"),
    ("2.1", lambda q, k: (q @ swapped(k) / q.shape[-1] ** 0.5).softmax(-1), "k is reshaped where it must be tran"),
    ("2.2", heads_on(key=swapped), "k is reshaped where it must be transposed"),
    ("2.2", heads_on(value=lambda v: swapped(v).mT), "v is reshaped before it meets the weights"),
    ("3.3", attention_on(key=swapped), "k is reshaped where it must be transposed"),
    ("8.7", lambda g, n: right("8.7")(swapped(g).mT, n), "is reshaped where its axes 0 and 1 must be exchanged"),
    ("2.3", relative(lambda d, n: d.clamp(min=0) + n - 1), "negative offsets along the row all count as 0"),
    ("2.3", relative(lambda d, n: (d + n - 1).clamp(0, n - 1)), "positive offsets along the row all count as 0"),
    ("3.5", lambda t, M: bias(t, M, lambda h, w: h.clamp(min=0) * (2 * M - 1) + w.clamp(min=0)), "along every axis"),
    ("3.5", lambda t, M: bias(t, M, lambda h, w: h.abs() * (2 * M - 1) + w.abs()), "the sign of the offset along eve"),
    ("3.5", lambda t, M: t[flat_rows((M, M))].permute(2, 0, 1), "as if the window were one row"),
    ("4.5", lambda w: flat_rows(w).abs(), "as if the window were one row"),
    (
        "4.5",
        lambda w: rows(w, lambda t, h, x, P, A, B: t * (2 * P - 1) * (2 * A - 1) + h * (2 * A - 1) + x),
        "the offset along time is multiplied by (2P-1)·(2Mh-1); it must be multiplied by (2Mh-1)·(2Mw-1); and",
    ),
    ("4.5", lambda w: rows(w, lambda t, h, x, P, A, B: t * (2 * A - 1) ** 2 + h * (2 * P - 1) + x), "by (2Mh-1)²"),
    ("4.5", lambda w: rows(w, lambda t, h, x, P, A, B: (t + h) * 2 * B + x), "multiplied by 2Mw"),
    ("2.4", lambda h, w, C: right("2.4")(h, w, C) + 3 * (h * w) ** 2, "there is a term too many: 3·h²·w², which is"),
    ("2.4", lambda h, w, C: 3 * h * w * C**2 + 2 * (h * w) ** 2 * C + (h * w) ** 2, "The other: there is a term too"),
    ("2.5", lambda h, w, C, M: window_macs(h, w, C, M) + 4 * C * -(-h // M) * -(-w // M) * M * M, "4·h·w·C, which is"),
    ("2.6", lambda T, H, W, p, h, b, e: b * h * e * math.comb(patches(T, H, W, p) + 1, 2), "N·(N - 1)/2 in place of"),
    ("2.4", lambda h, w, C: 4 * h * w * C**2 + h * w * (h * w + 1) * C, "(h·w)·(h·w + 1)/2 in place of (h·w)²"),
    ("3.4", lambda H, W, M, s: numbers_of_windows(H, W, M, s).roll(-s[0] - s[1]), "as one long row"),
    ("4.3", lambda x, s: x.roll(-sum(s)), "as one long row"),
    ("4.4", lambda z, w, s: mask_3d(z, w, s, lambda g: g.roll(-sum(s))), "as one long row"),
    ("3.4", lambda H, W, M, s: numbers_of_windows(H, W, M, s).roll((-s[0], -s[1])), "wants as many `dims`"),
    ("4.4", lambda z, w, s: mask_3d(z, w, tuple(m // 2 for m in w)), "`shift` is ignored: your result is always that"),
    ("4.4", lambda z, w, s: mask_3d(z, w, (1, 1, 1)), "`shift` is ignored: your result is always that of (1, 1, 1)"),
    ("4.4", lambda z, w, s: mask_3d(z, w, tuple(m // 2 if k else 0 for m, k in zip(w, s))), "wherever they are not 0"),
]  # fmt: skip


INVERTED = "the mask is inverted"
FRESH = [
    ("2.3", lambda t, n: relative(lambda d, n: d + n - 1)(t, n).permute(1, 2, 0).reshape(-1, n, n), "mixes them up"),
    ("2.3", lambda t, n: relative(lambda d, n: n - 1 - d)(t, n).permute(1, 2, 0).reshape(-1, n, n), "reshape or view"),
    ("4.6", lambda w, pt: torch.stack([w / pt] * pt).reshape(*w.shape[:2], pt, *w.shape[2:]), "(pt, D, C, ph, pw)"),
    ("2.1", lambda q, k: right("2.1")(q, k).transpose(1, 2).reshape(*q.shape[:3], -1), "mixes the numbers up"),
    ("3.5", linear_rows, "finish with `.permute(2, 0, 1)`"),
    ("4.6", lambda w, pt: torch.stack([w / pt] * pt), "finish with `.permute(1, 2, 0, 3, 4)`"),
    ("4.2", lambda x, w, s: right("4.2")(x, w, s).permute(0, 4, 1, 2, 3), "finish with `.permute(0, 2, 3, 4, 1)`"),
    ("3.3", windowed(mask=lambda s, m: s + (m == 0) * -torch.inf), "NaN (not a number) comes from"),
    ("3.3", windowed(mask=lambda s, m: s / (m * 0)), "NaN (not a number) comes from"),
    ("4.2", glue("(T H W) (p h w) c -> 1 (T p) (H h) (W w) c"), "36 is 2 · 18, and 2 is the batch"),
    ("3.2", glue_2d("(h w) (i j) c -> () (h i) (w j) c"), "12 is 2 · 6, and 2 is the batch"),
    ("4.2", glue_one_clip, "1296 is 2 · 648, and 2 is the batch, axis 0 of the result; is it left out?"),
    ("3.1", cut_one_image, "144 is 2 · 72, and 2 is the batch, axis 0 of `x`; is it left out?"),
    ("2.5", lambda h, w, C, M: h / M * w / M * (4 * M * M * C**2 + 2 * M**4 * C), "is missing: a map"),
    ("2.4", lambda h, w, C: 3 / 1 * h * w * C**2 + 2 * (h * w) ** 2 * C, "Besides, your number is a floating-point"),
    ("2.6", lambda T, H, W, p, h, b, e: b * h * (T * H / p * W / p) ** 2 * e, "Besides, your number is a floating"),
    ("1.2", lambda n, f: torch.arange(f) * n / f, "add half a segment. Besides, your numbers are floating-point"),
    ("3.2", lambda x, M, H, W: x.view(len(x) / (H // M * (W // M)), H, W, -1), "divide with `//`, or write `int(...)`"),
    ("8.1", lambda s, c, b, seed: torch.arange(c)[: np.ceil(c / b)], "divide with `//`, or write `int(...)`"),
    ("1.1", spread(lambda f, s: (f - 1) * s + 1), "yours is start + the span, one too far"),
    ("1.1", spread(lambda f, s: f * s, torch.round), "start + frames · stride, and the points are rounded"),
    ("2.6", lambda T, H, W, p, h, b, e: b * h * e * (patches(T, H, W, p) ** 2 + 1), "is added after the power"),
    ("2.6", lambda T, H, W, p, h, b, e: b * h * e * patches(T, H, W, p) ** 2 + 1, "is added to the whole product"),
    (
        "2.6",
        lambda T, H, W, p, h, b, e: b * h * e * patches(T, H, W, p) * (patches(T, H, W, p) + 1),
        "is in one factor N only",
    ),
    ("2.5", lambda h, w, C, M: window_macs(h // M * M, w // M * M, C, M, second=lambda M: M), "M: round up. The other"),
    ("2.5", lambda h, w, C, M: h * w // M**2 * (4 * M * M * C**2 + M**4 * C), "is rounded down to whole windows"),
    ("3.3", windowed(mask=lambda s, m: s.masked_fill(m == 0, -1e4)), INVERTED),
    ("3.3", windowed(mask=lambda s, m: s + (m == 0) * -1e5), INVERTED),
    ("3.3", windowed(mask=lambda s, m: s.masked_fill(m == 0, torch.finfo().min)), INVERTED),
    ("3.3", masked_weights(lambda m: m), "multiplied by the mask after the softmax"),
    ("3.3", masked_weights(lambda m: m != 0), "allowed weights are set to 0 after the softmax"),
    ("4.4", lambda z, w, s: right("4.4")(z, w, s) * 1e4, "forbidden pairs hold -1e+06"),
    ("4.4", lambda z, w, s: torch.where(right("4.4")(z, w, s) == 0, -torch.inf, 0.0), "same group hold minus infinity"),
    ("4.4", lambda z, w, s: right("4.4")(z, w, s).unsqueeze(1), "drop it with `.squeeze(1)`"),
    ("4.4", lambda z, w, s: right("4.4")(z, w, s)[:, None, None], "drop them with `.squeeze((1, 2))`"),
    ("2.5", lambda h, w, C, M: math.ceil(h / M) * (w / M) * (4 * M * M * C**2 + 2 * M**4 * C), "got 1,088,640, wanted"),
    ("8.7", lambda g, n: g.sum(0) / (n > 0).sum(), "  Likely: the means of all ranks are added and divided"),
    ("3.1", lambda x, M: right("3.1")(x, M)[None], "drop it with `.squeeze(0)`"),
    ("8.7", lambda g, n: g[n > 0].mean(0), "  Likely: every rank that has clips counts the same"),
    ("8.7", lambda g, n: n.sqrt() @ g / n.sqrt().sum(), "  Likely: the weights are the roots of the numbers of clips"),
    ("8.7", lambda g, n: (n + 1.0) @ g / (n + 1).sum(), "  Likely: the weights are the numbers of clips plus 1"),
]  # fmt: skip


@pytest.mark.parametrize("number, function, words", FRESH)
def test_one_mistake_is_told_as_one_and_what_to_do_helps(number, function, words, capsys):
    out = verdict(number, function, capsys)
    assert out.startswith(f"✗ exercise {number}, ") and words in out, out
    assert "must become" not in out, out


def test_a_nan_of_a_later_case_is_not_said_beside_numbers_that_are_none(capsys):
    def noisy(logits, label, eps):
        loss = right("8.4")(logits, label, eps) + torch.randn(())
        return loss * torch.nan if len(logits) != len(EXERCISES["8.4"].cases()[0][0]) else loss

    assert "NaN" not in verdict("8.4", noisy, capsys)


def interrupted(*args):
    raise KeyboardInterrupt


def test_an_interrupt_and_an_exit_end_in_a_sentence(capsys):
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    shell.user_ns |= {"check": check, "interrupted": interrupted}
    assert not shell.run_cell('check("2.4", interrupted)').success
    out = capsys.readouterr().out.strip()
    assert out == "✗ exercise 2.4, on h=2, w=3, C=4: interrupted; does a loop never end?"
    assert "leave a function with `return`" in verdict("2.4", lambda h, w, C: exit(), capsys)
    assert "leave a function with `return`" in verdict("4.4", lambda *args: sys.exit("done"), capsys)


def not_named(function):
    """Wrong in a way that has no kind."""
    return lambda *args: (lambda out: out + torch.randn(out.shape))(function(*args).double())


@pytest.mark.parametrize("number, function, words", AXES + OPERATIONS + NUMBERS + TABLES + BLIND)
def test_the_kind_of_a_mistake_is_named(number, function, words, capsys):
    out = verdict(number, function, capsys)
    assert out.startswith(f"✗ exercise {number}, ") and out.count("  Likely: ") == 1, out
    assert words in out.split("  Likely: ")[1], out


@pytest.mark.parametrize("number", ["1.4", "4.1", "4.6"])
def test_where_no_kind_explains_the_numbers_nothing_is_said(number, capsys):
    assert "Likely" not in verdict(number, not_named(right(number)), capsys)


def test_the_search_gives_up_in_time(monkeypatch, capsys):
    monkeypatch.setattr(kinds, "SECONDS", 0.2)
    start = time.monotonic()
    assert "Likely" not in verdict("2.2", not_named(right("2.2")), capsys)
    assert time.monotonic() - start < 3


# ---------------------------------------------------------------- whole forwards


def window_attention(x, mask=None):
    """(B·nW, N, C): attention without weights, enough to tell who sees whom."""
    logits = x @ x.mT / x.shape[-1] ** 0.5
    if mask is not None:
        logits = logits + mask.repeat(len(x) // len(mask), 1, 1)
    return logits.softmax(-1) @ x


def windows(x, M):
    return rearrange(x, "b (h i) (w j) c -> (b h w) (i j) c", i=M, j=M)


def from_windows(x, M, H, W):
    return rearrange(x, "(b h w) (i j) c -> b (h i) (w j) c", i=M, j=M, h=H // M, w=W // M)


def norm(x):
    return F.layer_norm(x, x.shape[-1:]) + 0.3  # a bias: what is padded before it is not 0 after it


def padded_to(x, M):
    return F.pad(x, (0, 0, 0, -x.shape[2] % M, 0, -x.shape[1] % M))


def mask_of(H, W, M, s):
    """(nW, N, N) of the rolled map."""
    pieces = [torch.div(torch.arange(n) - s, M, rounding_mode="floor") for n in (H, W)]
    groups = (pieces[0][:, None] * 100 + pieces[1]).roll((-s, -s), (0, 1))
    groups = windows(groups[None, ..., None].float(), M)[..., 0]
    return torch.where(groups[:, :, None] == groups[:, None], 0.0, -100.0)


def put(name, function):
    """A step that changes x."""
    return Step(name, lambda s: s.update(x=function(s["x"], s)))


M, SHIFT = 4, 2
BLOCK = Steps(
    lambda x, weight: dict(x=x, weight=weight, H=x.shape[1], W=x.shape[2]),
    (
        Step("keep the shortcut", lambda s: s.update(shortcut=s["x"])),
        put("norm", lambda x, s: norm(x)),
        put("pad", lambda x, s: padded_to(x, M)),
        Step(
            "shift",
            lambda s: s.update(x=s["x"].roll((-SHIFT, -SHIFT), (1, 2))),
            (("the shift has the other sign", lambda s: s.update(x=s["x"].roll((SHIFT, SHIFT), (1, 2)))),),
        ),
        Step("mask", lambda s: s.update(mask=mask_of(*s["x"].shape[1:3], M, SHIFT))),
        put("attend", lambda x, s: from_windows(window_attention(windows(x, M), s.get("mask")), M, *x.shape[1:3])),
        put("shift back", lambda x, s: x.roll((SHIFT, SHIFT), (1, 2))),
        put("crop", lambda x, s: x[:, : s["H"], : s["W"]]),
        put("add the shortcut", lambda x, s: x + s["shortcut"]),
        Step("keep the second shortcut", lambda s: s.update(shortcut=s["x"])),
        put("second norm", lambda x, s: norm(x)),
        put("MLP", lambda x, s: F.gelu(x @ s["weight"])),
        put("add the second shortcut", lambda x, s: x + s["shortcut"]),
    ),
    together=(("shift", "shift back"), ("shift", "mask", "shift back")),
)


def block(
    x,
    weight,
    shift=SHIFT,
    masked=True,
    back=SHIFT,
    norm_first=True,
    crop_first=False,
    pad_first=False,
    shortcut="x",
    second=True,
    second_norm=norm,
    post=False,
):
    """A Swin block, written again as a reader would, with the mistakes of the table below."""
    H, W = x.shape[1:3]
    if pad_first:
        y = norm(padded_to(x, M))
    else:
        y = padded_to(norm(x) if norm_first else x, M)
    kept = {"x": x, "normed": norm(x), "none": 0}[shortcut]
    rows, columns = y.shape[1:3]
    y = windows(y.roll((-shift, -shift), (1, 2)), M)
    y = from_windows(window_attention(y, mask_of(rows, columns, M, SHIFT) if masked else None), M, rows, columns)
    y = y[:, :H, :W].roll((back, back), (1, 2)) if crop_first else y.roll((back, back), (1, 2))[:, :H, :W]
    x = kept + (norm(y) if post else y)
    return x * second + F.gelu(second_norm(x) @ weight)


FORWARDS = [
    (dict(), None),
    (dict(masked=False), "the step “mask” is forgotten"),
    (dict(shift=0, back=0, masked=False), "the steps “shift” and “mask” and “shift back” are forgotten"),
    (dict(back=0), "the step “shift back” is forgotten"),
    (dict(norm_first=False), "the step “norm” is forgotten"),
    (dict(crop_first=True), "the step “shift back” comes too late: it must come before “crop”"),
    (dict(pad_first=True), "“norm” comes too late: it must come before “pad”"),
    (dict(shortcut="normed"), "“keep the shortcut” comes too late: it must come before “norm”"),
    (dict(shortcut="none"), "the step “add the shortcut” is forgotten"),
    (dict(second=False), "the step “add the second shortcut” is forgotten"),
    (dict(second_norm=lambda x: x), "the step “second norm” is forgotten"),
    (dict(shift=-SHIFT), "the shift has the other sign"),
    (dict(norm_first=False, post=True), "the step “norm” comes too late: it must come before"),
    (dict(masked=False, second=False), "One: the step “mask” is forgotten. The other: the step “add"),
]  # fmt: skip


@pytest.mark.parametrize("how, words", FORWARDS)
def test_a_forward_is_named_by_the_step_that_is_wrong(how, words, monkeypatch, capsys):
    cases = [(torch.randn(1, 8, 8, 3), torch.eye(3)), (torch.randn(2, 5, 7, 4), torch.randn(4, 4))]
    exercise = Exercise(
        "a block", BLOCK.function, lambda: cases, lambda x, w: "the shape of x", (), BLOCK.function, kinds=(BLOCK,)
    )
    monkeypatch.setitem(EXERCISES, "0.1", exercise)
    out = verdict("0.1", lambda x, weight: block(x, weight, **how), capsys)
    if words is None:
        assert out == "✓ exercise 0.1 (a block): 2 cases\n"
    else:
        assert words in out.split("  Likely: ")[1], out


# ---------------------------------------------------------------- kinds of notebooks 05 to 07


def mvit_block(mlp=lambda x, y: y, skip=lambda x, y: x, grown=lambda x, y: y, attended=lambda x, y: y):
    """Exercise 5.3: which of the sum x and its norm y each branch is given."""

    def forward(self, x):
        x = right("5.1")(x, self.size, self.pool_skip) + self.attn(attended(x, self.norm1(x)))
        y = self.norm2(x)
        return (skip(x, y) if self.proj is None else self.proj(grown(x, y))) + self.mlp(mlp(x, y))

    return forward


def mvit_plan(begins=lambda i, starts: i in starts, ends=lambda i, starts: i + 1 in starts):
    def plan(depth, dim, starts, kv):
        rows, heads = [], 1
        for i in range(depth):
            b = begins(i, starts)
            heads, kv = (2 * heads, max(kv // 2, 1)) if b else (heads, kv)
            out = 2 * dim if ends(i, starts) else dim
            rows.append([dim, out, heads, 2 if b else 1, kv])
            dim = out
        return torch.tensor(rows)

    return plan


def seen_in(name, rule):
    """Exercise 6.2 with another rule of one step: of the rows, columns and frames of all pairs, and their numbers."""

    def mask(step, size):
        if step != name:
            return right("6.2")(step, size)
        places = torch.cartesian_prod(*map(torch.arange, size)).view(-1, 3).unbind(1)
        return rule(*((p[:, None], p[None]) for p in places), size)

    return mask


def together(p, n):
    """In the same half, where a reader halves with //."""
    return (p[0] < n // 2) == (p[1] < n // 2)


def divided(fc=True, norm2=True, norms=True):
    """Exercise 6.4 with parts that are not called."""

    def forward(x, size, block):
        T = size[2]
        cls, x = x[:, :1], x[:, 1:]
        y = rearrange(x, "b (n t) c -> (b n) t c", t=T)
        y = block.temporal_attn(block.temporal_norm1(y) if norms else y)
        x = x + rearrange(block.temporal_fc(y) if fc else y, "(b n) t c -> b (n t) c", b=len(x))
        y = torch.cat([cls.repeat_interleave(T, 0), rearrange(x, "b (n t) c -> (b t) n c", t=T)], 1)
        y = block.attn(block.norm1(y) if norms else y)
        cls = cls + y[:, :1].unflatten(0, (-1, T)).mean(1)
        x = torch.cat([cls, x + rearrange(y[:, 1:], "(b t) n c -> b (n t) c", t=T)], 1)
        return x + block.mlp(block.norm2(x) if norm2 and norms else x)

    return forward


def timesformer_of(tokens):
    """Exercise 6.5 with other ways from maps (B·T, C, H, W) to patches (B, T, N, C)."""

    def forward(x, model):
        maps = model.patch_embed.proj(rearrange(x, "b c t h w -> (b t) c h w"))
        patches = tokens(maps, len(x))
        z = right("6.1")(patches, model.cls_token, model.pos_embed, model.time_embed)
        for block in model.blocks:
            z = block(z, (*maps.shape[2:], x.shape[2]))
        return model.head(model.norm(z)[:, 0])

    return forward


def stretched(index):
    def resize(pos, grid, new):
        rows, columns = (index(n, N) for n, N in zip(grid, new))
        return torch.cat([pos[:, :1], pos[:, 1:].unflatten(1, grid)[:, rows][:, :, columns].flatten(1, 2)], 1)

    return resize


def tube(inside=lambda at, n: all(0 <= a < m for a, m in zip(at, n)), radius=lambda n: [m // 2 for m in n]):
    def affinity(kernel, size):
        sides, places = kernel.shape[1:], list(np.ndindex(*size))
        out = torch.zeros(len(kernel), len(places), len(places))
        for i, q in enumerate(places):
            for j, k in enumerate(places):
                at = [b - a + r for a, b, r in zip(q, k, radius(sides))]
                if inside(at, sides):
                    out[:, i, j] = kernel[:, at[0], at[1], at[2]]
        return out

    return affinity


def uniformer_of(stages, mean=(2, 3, 4)):
    def forward(net, x):
        for i in stages:
            x = getattr(net, f"blocks{i}")(getattr(net, f"patch_embed{i}")(x))
        return net.head(net.norm(x).mean(mean))

    return forward


def places_first_backwards(block, x):
    """Exercise 7.4: the map becomes tokens in the order (W H T)."""
    x = x + block.pos_embed(x)
    size = x.shape[2:]
    x = rearrange(x, "b c t h w -> b (w h t) c")
    x = x + block.attn(block.norm1(x))
    return (x + block.mlp(block.norm2(x))).mT.unflatten(2, size)


def without_norms(block, x):
    """Exercise 7.3."""
    x = x + block.pos_embed(x)
    x = x + block.conv2(block.attn(block.conv1(x)))
    return x + block.mlp(x)


LATER = [
    ("5.3", mvit_block(mlp=lambda x, y: x), "the step “MLP” is given what there was before “norm2”"),
    ("5.3", mvit_block(attended=lambda x, y: x, mlp=lambda x, y: x), "“MLP” is given what there was before “norm2”"),
    ("5.4", mvit_plan(lambda i, s: i + 1 in s), "change one block early, with the channels"),
    ("5.4", mvit_plan(lambda i, s: i - 1 in s), "heads, query stride and key stride change one block late"),
    ("5.4", mvit_plan(lambda i, s: i + 1 in s, lambda i, s: i + 2 in s), "that of starts - 1; are they counted from 1"),
    ("4.3", lambda x, s: right("4.3")(x, tuple(n + 1 for n in s)), "every entry of `shift` is off by one"),
    ("6.2", seen_in("local", lambda h, w, t, n: together(h, n[0]) & together(w, n[1]) & together(t, n[2])), "in `local`"
     " the frames must lie in the same half, where the one in the middle counts to the second half"),
    ("6.2", seen_in("global", lambda h, w, t, n: (h[0] - h[1]) % 3 + (w[0] - w[1]) % 3 + (t[0] - t[1]) % 3 == 0),
     "in `global` the rows and columns and frames must have a distance that 3 divides"),
    ("6.2", seen_in("temporal", lambda h, w, t, n: (h[0] == h[1]) & (w[0] == w[1]) & ((t[0] - t[1]).abs() < 2)),
     "in `temporal` the frames must be equal or neighbours in your mask; it must be: frames are free"),
    ("6.4", divided(fc=False, norm2=False), "`norm2` and `temporal_fc` are not called"),
    ("6.4", divided(norms=False), "`norm1` and `norm2` and `temporal_norm1` are not called"),
    ("7.3", without_norms, "`norm1` and `norm2` are not called: your result is that of a `block` without them"),
    ("6.5", timesformer_of(lambda m, B: m.reshape(B, -1, m[0, 0].numel(), m.shape[1])), "without moving its channels"),
    ("6.5", timesformer_of(lambda m, B: rearrange(m, "(b t) c h w -> b t (w h) c", b=B)), "in the order (W H)"),
    ("7.4", places_first_backwards, "the order (W H T), slowest first; it must be (T H W)"),
    ("6.6", stretched(lambda n, N: torch.arange(N) // (N // n)), "the ratio of the two sizes is rounded to a whole"),
    ("6.6", stretched(lambda n, N: torch.arange(n).repeat_interleave(N // n)), "reaches N only where n divides N"),
    ("6.6", stretched(lambda n, N: torch.tensor([min(math.ceil(i * n / N), n - 1) for i in range(N)])), "rounded up"),
    ("7.1", tube(lambda at, n: all(a < m for a, m in zip(at, n))), "the lower bound is not tested: an index below 0"),
    ("7.1", tube(lambda at, n: all(0 <= a for a in at)), "the upper bound is not tested"),
    ("7.1", tube(lambda at, n: 0 <= at[0] < n[0] and 0 <= at[1] < n[1] and 0 <= at[2]), "along width the upper bound"),
    ("7.1", tube(radius=lambda n: [n[0] // 2] * 3), "the radius along time is used along all axes"),
    ("7.1", tube(radius=lambda n: [min(n) // 2] * 3), "the smallest radius is used along all axes"),
    ("7.5", uniformer_of((1, 3, 4)), "stage 2 is left out, its patch embedding and its blocks"),
    ("7.5", uniformer_of((1, 2, 4)), "`net.patch_embed4.proj` has 6 channels, and what it is given has 4 there"),
    ("7.5", uniformer_of((1, 2, 3)), "`net.norm` has 8 channels, and what it is given has 6 there"),
    ("7.5", uniformer_of((1, 2, 3, 4), (1, 2, 3)), "`net.head` has 8 channels, and what it is given has"),
]  # fmt: skip


@pytest.mark.parametrize("number, function, words", LATER)
def test_a_kind_that_blind_readers_of_the_later_notebooks_met_is_named(number, function, words, capsys):
    out = verdict(number, function, capsys)
    assert out.startswith(f"✗ exercise {number}, ") and out.count("  Likely: ") == 1, out
    assert words in out.split("  Likely: ")[1], out


# ---------------------------------------------------------------- errors


shifted_windows = None  # a name that exists here


def misspelt(size, window, shift):
    return torch.zeros(len(shifted_window), 1)  # noqa: F821


def misspelt_argument(x, window):
    return x.reshape(-1, windw[0])  # noqa: F821


def not_imported(x, window):
    return einops.rearrange(x, "b t h w c -> b c")  # noqa: F821


def of_another_cell(x, window):
    return my_helper_of_cell_five(x)  # noqa: F821


def used_before(x, window):
    if window == (1, 2, 3):
        y = x
    return y


ERRORS = [
    ("4.4", misspelt, "did you mean `shifted_windows`?"),
    ("4.1", misspelt_argument, "did you mean `window`?"),
    ("4.1", not_imported, "`einops` is not imported here: run the first cells"),
    ("4.1", of_another_cell, "run the cells above"),
    ("4.1", used_before, "`y` is used before it has a value"),
    ("4.1", lambda x, w: x.permut(0, 1), "a value of type Tensor has no `permut`; did you mean `permute`?"),
    ("4.1", lambda x, w: rearrange(x, "b (T p) h w c -> (b T) (p h w)", p=w[0]), "one side only"),
    ("4.1", lambda x, w: rearrange(x, "b (T p) h w c -> (b T) (p h w) c", p=3), "of length 4 is to be cut into"),
    ("4.1", lambda x, w: rearrange(x, "b t h w -> b t h w"), "names 4 axes, the tensor has 5: x is (1, 4, 4, 4, 1)"),
    ("4.1", lambda x, w: rearrange(x, "b (t p) h w c -> b t p h w c"), "all but one need a size"),
    ("4.1", lambda x, w: x.reshape(3, w[0], -1), "3 · 2 = 6 does not divide 64; x is (1, 4, 4, 4, 1)"),
    ("4.1", lambda x, w: x.permute(0, 2, 1), "the tensor has 5, you name 3"),
    ("4.1", lambda x, w: x.permute(0, 1, 2, 3, 3), "an axis is named twice"),
    ("4.1", lambda x, w: x.reshape(-1, w[0] / 1), "divide with `//`"),
    ("8.2", lambda step, steps, warmup, peak: step / (warmup - 4) , "something is divided by 0"),
    ("2.3", lambda t, n: t[torch.arange(n) / 2], "indices must be whole numbers"),
    ("3.6", lambda x: torch.cat([x[:, 0::2], x[:, :, 1::2]], -1), "An odd axis must be padded, an even one must not."),
    ("4.1", lambda x, w: x.reshape(-1, w, x.shape[-1]), "a whole number, and you give a value of type tuple"),
    ("4.3", lambda x, s: s.roll(x), "a value of type tuple has no `roll`"),
    ("4.3", lambda x, s: torch.roll(s, x), "`roll` wants Tensor for its `input`, and you give a value of type tuple"),
    ("4.3", lambda x: x, "is called with `x`, `shift`; it takes `x`"),
    ("8.6", lambda run: 0.0, "is called with `run`, `parts`; it takes `run`"),
    ("4.4", lambda z, w, s: right("4.4")(z, w, s) * torch.nan, "NaN (not a number) comes from"),
    ("3.2", lambda x, M, H, W: x.view(len(x) // (H * W * M), H // M, W // M, M, M, -1), "reshape to is 0: if it comes"),
    ("4.1", lambda x, w: x.reshape(len(x) // 2, -1), "you divide by more than there is (x is (1, 4, 4, 4, 1))"),
    ("3.3", lambda q, k, v, b, m: (q @ k.mT / q.shape[-1] ** 0.5 + b + m[:, None]).softmax(-1) @ v, "repeated 2 times"),
    ("8.4", lambda logits, label, eps: -logits.log_softmax(-1).gather(1, label).mean(), "as in `label[:, None]`"),
    ("8.4", lambda logits, label, eps: logits.take_along_dim(label, 1).mean(), "as in `label[:, None]`"),
    ("8.5", lambda norms, limit: torch.min(limit / norms.norm(), 1.0), "for a number there is `.clamp(max=...)`"),
    ("8.5", lambda norms, limit: torch.max(norms, 0.0).sum(), "`torch.max` compares two tensors"),
]  # fmt: skip


def test_the_shorter_of_two_sizes_may_have_to_be_repeated():
    text = "The size of tensor a ({}) must match the size of tensor b ({}) at non-singleton dimension 0"
    said = errors.repeated(text.format(4, 12), {"the batch (axis 0 of x)": 3})
    assert "12 is 3 · 4" in said and "repeated 3 times, once for each sample of the batch" in said
    assert errors.repeated(text.format(12, 4), {"the batch (axis 0 of x)": 2}).endswith("must be repeated 3 times")
    assert errors.repeated(text.format(5, 12), {}) == errors.repeated(text.format(12, 1), {}) == ""


@pytest.mark.parametrize("number, function, words", ERRORS)
def test_an_error_is_said_with_the_names_of_the_exercise(number, function, words, capsys):
    out = verdict(number, function, capsys)
    assert words in out.split("  Likely: ")[1], out


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(8, 8, 1, dtype=torch.complex64),
        torch.ones(8, 8, 1).to_sparse(),
        torch.empty(8, 8, 1, device="meta"),
        torch.empty(0),
        torch.tensor(float("inf")),
        np.ones((8, 8, 1)),
        10**400,
        {"x": 1},
    ],
    ids=lambda value: str(type(value)),
)
def test_whatever_a_function_returns_there_is_a_verdict(value, monkeypatch, capsys):
    monkeypatch.setattr(kinds, "SECONDS", 0.1)
    for number in ("4.1", "2.4"):
        assert verdict(number, lambda *args: value, capsys).startswith(f"✗ exercise {number}, ")


# ---------------------------------------------------------------- the engine


@pytest.mark.parametrize("number", EXERCISES)
def test_what_is_named_makes_the_readers_numbers(number):
    """Every fifteenth mistake that the engine knows is put in; what it then says must hold in every case."""
    exercise = EXERCISES[number]
    torch.manual_seed(0)
    cases = exercise.cases()
    wants = [exercise.definition(*clone(args)) for args in cases]
    known = [c for kind in exercise.kinds if hasattr(kind, "changes") or hasattr(kind, "single") for c in
             kind.candidates(None, [Outcome(a, w, None) for a, w in zip(cases, wants)])]  # fmt: skip
    for sentence, wrong in known[::15]:
        outcomes = [Outcome(args, want, attempt(wrong, args)) for args, want in zip(cases, wants)]
        if all(o.got is None or o.right for o in outcomes):
            continue  # no mistake in these cases
        said = explain(exercise, wrong, outcomes)
        assert said is not None, sentence
        assert said == sentence or same_elsewhere(exercise, said, outcomes, known), (sentence, said)


def same_elsewhere(exercise, said, outcomes, known) -> bool:
    """Whether what was said, instead of another sentence, is true: it gives the same numbers."""
    found = [wrong for sentence, wrong in [*exercise.mistakes, *known] if sentence == said]
    return not found or any(fits(wrong, outcomes) for wrong in found)


def test_a_mistake_must_explain_the_cases_that_only_the_engine_sees(monkeypatch, capsys):
    cases, more = [(torch.arange(3.0),)], [(torch.arange(4.0),)]
    exercise = Exercise("toy", lambda x: x + 1, lambda: cases, str, (), lambda x: x + 1)
    monkeypatch.setitem(EXERCISES, "0.1", exercise)
    assert "too small by 1" in verdict("0.1", lambda x: x, capsys)
    monkeypatch.setitem(EXERCISES, "0.1", Exercise(**(vars(exercise) | {"more": lambda: more})))
    assert "too small by 1" in verdict("0.1", lambda x: x, capsys)
    assert "Likely" not in verdict("0.1", lambda x: x if len(x) == 3 else x - 1, capsys)


def test_the_search_is_not_seen(capsys):
    """What a wrong function prints or draws is as if only the cases had been tried."""

    def chatty(x, shift):
        print("hello")
        return x + torch.rand(1)

    check("4.3", chatty)
    drawn = torch.rand(1)
    torch.manual_seed(0)  # as the check begins
    cases = EXERCISES["4.3"].cases()
    assert capsys.readouterr().out.count("hello") == len(cases)
    for _ in cases:
        torch.rand(1)
    assert torch.equal(drawn, torch.rand(1))


# ---------------------------------------------------------------- around the check


def test_an_exercise_that_does_not_exist_names_those_that_do():
    with pytest.raises(KeyError) as error:
        check("4.99", right("4.1"))
    assert str(error.value) == f"there is no exercise 4.99; there are {', '.join(f'4.{n}' for n in range(1, 10))}"
    with pytest.raises(KeyError, match=r"no exercise 99\.1; there are 0\.1, 1\.1 to 1\.6, .* 8\.1 to 8\.8"):
        check("99.1", right("4.1"))


def test_the_picture_has_a_legend(monkeypatch):
    monkeypatch.undo()
    a = torch.arange(12.0).view(3, 4)
    (legend,) = show.expected_got(a, a.flip(0)).legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "equal",
        "differs a little",
        "differs most",
        "first difference",
    ]
    assert show.expected_got(a, a).legends == []


def test_after_the_last_hint_the_student_edition_says_where_the_solution_is():
    source = repo_root() / "notebooks" / "src" / "04_video_swin.py"
    hints = {parts(c)["hints"]: c.source for c in student_edition(source).cells if "hints" in parts(c)}
    assert sorted(hints) == [f"4.{i}" for i in range(1, 10)]
    for number, text in hints.items():
        last = text.split("</details>")[-1].strip()
        assert last.startswith(f"*The solution of exercise {number} ") and "`notebooks/04_video_swin.ipynb`" in last


SOURCES = {source.stem: source for source in sorted((repo_root() / "notebooks" / "src").glob("[0-9]*.py"))}


def guarded(name, *args, **kwargs):
    """`import` for the reader's code: nothing of the package but the check."""
    if name.split(".")[0] == "vt_course":
        raise ImportError(f"{name} is the package's own")
    return builtins.__import__(name, *args, **kwargs)


@pytest.mark.parametrize("stem", [stem for stem, source in SOURCES.items() if hygiene.exercises(from_source(source))])
def test_the_solutions_pass_where_nothing_of_the_package_can_be_imported(stem, capsys):
    """Each solution runs with the imports, functions and CONSTANTS of its notebook's cells, and without the package."""
    cells = [c for c in from_source(SOURCES[stem]).cells if c.cell_type == "code"]
    known, imports = {}, []
    for cell in cells:
        if "exercise" in parts(cell):
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                if "vt_course" not in ast.unparse(node):
                    imports.append(node)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                known[node.name] = node
            elif isinstance(node, ast.Assign) and re.fullmatch("[A-Z]{2,}", ast.unparse(node.targets[0])):
                known[node.targets[0].id] = node  # one letter is a size, as B in (B, N, C)
    passed = 0
    for cell in cells:
        if "solution" not in parts(cell):
            continue
        number, body = parts(cell)["solution"], ast.parse(cell.source).body[:-1]
        needed, todo = {}, list(body)
        while todo:  # the functions that the solution calls, and those that they call
            for name in {n.id for n in ast.walk(todo.pop()) if isinstance(n, ast.Name)} & known.keys() - needed.keys():
                needed[name] = known[name]
                todo.append(known[name])
        own = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        helpers = [node for name, node in needed.items() if name not in own]
        scope = {"__builtins__": vars(builtins) | {"__import__": guarded}, "__name__": "reader"}
        exec(compile(ast.Module([*imports, *helpers, *body], []), stem, "exec"), scope)
        assert not any("vt_course" in str(getattr(v, "__module__", "")) for k, v in scope.items() if k[:2] != "__")
        check(number, scope[body[-1].name])
        assert capsys.readouterr().out.startswith(f"✓ exercise {number} "), number
        passed += 1
    assert passed == len(hygiene.exercises(from_source(SOURCES[stem])))
