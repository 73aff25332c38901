"""Notebook 10: the parameters of a Swin by hand, which of two sources is wrong, a claim and its mutant."""

from collections.abc import Callable
from contextlib import contextmanager
from decimal import Decimal
from inspect import isclass
from math import prod
from types import SimpleNamespace

import torch

from vt_course import CourseError, need
from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.operations import Choices
from vt_course.models import fast, layers, mvit, swin, timesformer, uniformer, video_swin
from vt_course.models.cost import count_parameters

EXERCISES: dict[str, Exercise] = {}


# ---------------------------------------------------------------- 10.1: the parameters of a Swin


def size_literal(dim, depths, heads, window, patch, classes):
    """The network is built, without memory for its weights, and they are counted."""
    same = dict(embed_dim=dim, depths=depths, num_heads=heads, window=window, num_classes=classes)
    with torch.device("meta"):
        if len(window) == 3:
            model = video_swin.SwinTransformer3D(patch=patch, **same)
        else:  # an image so large that no map is smaller than a window
            sides = tuple(2 ** len(depths) * p * w for p, w in zip(patch, window))
            model = swin.SwinTransformer(img_size=sides, patch_size=patch, **same)
    return torch.tensor(count_parameters(model))


STEPS = dict(
    embed=lambda patch, C: 3 * prod(patch) * C + C + 2 * C,
    width=lambda dim, i: dim * 2**i,
    norms=lambda C: 4 * C,
    qkv=lambda C: 3 * C * C + 3 * C,
    proj=lambda C: C * C + C,
    mlp=lambda C: 8 * C * C + 5 * C,
    rows=lambda window: prod(2 * w - 1 for w in window),
    table=lambda rows, heads, n: n * rows * heads,
    merging=lambda C: 8 * C + 8 * C * C,
    merged=lambda stages: range(stages - 1),
    end=lambda C, classes: 2 * C + C * classes + classes,
)


def size_like(dim, depths, heads, window, patch, classes, **changed):
    """The sum in which the steps that are given replace the right ones."""
    step = SimpleNamespace(**STEPS | changed)
    total = step.embed(patch, dim)
    for i, (n, h) in enumerate(zip(depths, heads)):
        C = step.width(dim, i)
        total += n * (step.norms(C) + step.qkv(C) + step.proj(C) + step.mlp(C))
        total += step.table(step.rows(window), h, n)
        if i in step.merged(len(depths)):
            total += step.merging(C)
    return total + step.end(C, classes)


def size_of(dim, depths, heads, window, patch, classes):
    """The sum, as a tensor."""
    return torch.tensor(size_like(dim, depths, heads, window, patch, classes))


SIZES = Choices(
    size_like,
    {
        "embed": (
            ("the patch embedding has no bias in your sum: C more", lambda patch, C: 3 * prod(patch) * C + 2 * C),
            ("the norm behind the patch embedding is missing: 2C more", lambda patch, C: 3 * prod(patch) * C + C),
            ("the colours are forgotten: a patch holds 3 numbers a pixel", lambda patch, C: prod(patch) * C + 3 * C),
            ("the patch embedding is missing", lambda patch, C: 0),
        ),
        "width": (
            ("the channels stay the same: they double with each merging", lambda dim, i: dim),
            ("the channels grow by a factor of 4: they double with each merging", lambda dim, i: dim * 4**i),
            ("the channels grow by C with each merging: they double", lambda dim, i: dim * (i + 1)),
        ),
        "norms": (
            ("the norms of the blocks are missing: two a block, with 2C numbers each", lambda C: 0),
            ("a norm has a weight and a bias: 2C numbers, and a block has two norms", lambda C: 2 * C),
            ("a block has two norms, before attention and before the MLP, not three", lambda C: 6 * C),
        ),
        "qkv": (
            ("queries, keys and values have a bias: 3C more in each block", lambda C: 3 * C * C),
            ("queries, keys and values have a projection each: 3C², not C²", lambda C: C * C + C),
            ("there are three projections to queries, keys and values, not two", lambda C: 2 * C * C + 2 * C),
        ),
        "proj": (
            ("the projection behind the heads is missing: C² + C in each block", lambda C: 0),
            ("the projection behind the heads has a bias: C more in each block", lambda C: C * C),
        ),
        "mlp": (
            ("the biases of the MLP are missing: 4C and C in each block", lambda C: 8 * C * C),
            ("only one of the two layers of the MLP is counted", lambda C: 4 * C * C + 4 * C),
            ("the MLP has 4C hidden channels, not C", lambda C: 2 * C * C + 2 * C),
            ("the two biases of the MLP have 4C and C numbers, not 4C each", lambda C: 8 * C * C + 8 * C),
            ("the two biases of the MLP have 4C and C numbers, not C each", lambda C: 8 * C * C + 2 * C),
            ("the MLP is missing", lambda C: 0),
        ),
        "rows": (
            ("the bias tables have a row for each offset, 2w - 1 along an axis, not for each token", prod),
            ("along an axis of w tokens there are 2w - 1 offsets, not 2w", lambda w: prod(2 * n for n in w)),
            ("along an axis of w tokens there are 2w - 1 offsets, not 2w + 1", lambda w: prod(2 * n + 1 for n in w)),
            (
                "offsets along the axes are combined: the product of 2w - 1, not the sum",
                lambda w: sum(2 * n - 1 for n in w),
            ),
            ("a bias table has a row for each offset, not for each pair of tokens", lambda w: prod(w) ** 2),
            ("the bias tables are missing", lambda w: 0),
        ),
        "table": (
            ("a bias table has a column for each head", lambda rows, heads, n: n * rows),
            ("each block has a bias table of its own, not each stage", lambda rows, heads, n: rows * heads),
        ),
        "merging": (
            ("the linear layer of a merging has no bias", lambda C: 8 * C + 8 * C * C + 2 * C),
            ("the norm of a merging is missing: it sees 4C channels, so it has 8C numbers", lambda C: 8 * C * C),
            ("the norm of a merging stands before the linear layer, and sees 4C channels", lambda C: 4 * C + 8 * C * C),
            ("the norm of a merging sees four neighbours, 4C channels and not C", lambda C: 2 * C + 8 * C * C),
            ("a merging makes 2C of 4C channels: 8C², not 4C · 4C", lambda C: 8 * C + 16 * C * C),
            ("a merging makes 2C of 4C channels: 8C², not 4C · C", lambda C: 8 * C + 4 * C * C),
        ),
        "merged": (
            ("there is a merging too many: none follows the last stage", lambda stages: range(stages)),
            ("the mergings are missing: one between each two stages", lambda stages: ()),
        ),
        "end": (
            ("the last norm is missing: twice the channels of the last stage", lambda C, K: C * K + K),
            ("the head has a bias: a number for each class more", lambda C, K: 2 * C + C * K),
            (
                "the head is missing: it is a linear layer from the last stage's channels to the classes",
                lambda C, K: 2 * C,
            ),
        ),
    },
)


def some_swins(seeds: int) -> list[tuple]:
    """Small networks of two and three axes, each with another number of stages."""
    out = []
    for r in randoms(seeds):
        stages, axes = r.randint(1, 4), r.choice((2, 3))
        heads = tuple(r.choice((1, 2)) * 2**i for i in range(stages))
        window, patch = (tuple(r.randint(1, 4) for _ in range(axes)) for _ in range(2))
        out.append((8 * r.randint(1, 4), tuple(r.randint(1, 3) for _ in heads), heads, window, patch, r.randint(2, 50)))
    return out


EXERCISES["10.1"] = Exercise(
    "the parameters of a Swin",
    size_literal,
    lambda: [
        (96, (2, 2, 6, 2), (3, 6, 12, 24), (7, 7), (4, 4), 1000),
        (96, (2, 2, 6, 2), (3, 6, 12, 24), (8, 7, 7), (2, 4, 4), 400),
        (8, (1, 3), (2, 4), (3, 5), (4, 2), 7),
        (12, (3,), (3,), (2, 3, 2), (1, 4, 2), 5),
    ],
    lambda *args: "a whole number, shape ()",
    (),
    piece=size_of,
    more=lambda: some_swins(5),
    kinds=(SIZES,),
)


# ---------------------------------------------------------------- 10.2: does a value fit to what is printed?


def fits_literal(stated, values):
    """Each printed number with each value, in decimal arithmetic."""
    out = torch.zeros(len(stated), len(values), dtype=torch.bool)
    for i, text in enumerate(stated):
        half = Decimal(1).scaleb(Decimal(text).as_tuple().exponent) / 2
        for j, value in enumerate(values.tolist()):
            out[i, j] = abs(Decimal(value) - Decimal(text)) <= half
    return out  # (S, V)


def fits_like(stated, values, *, digits=None, room=None, near=None):
    """The table in which the steps that are given replace the right ones."""
    lines = []
    for text in stated:
        n = len(text.partition(".")[2]) if digits is None else digits(text)
        half = 0.5 * 10.0**-n if room is None else room(n, float(text))
        gap = values - float(text)
        lines.append(gap.abs() <= half if near is None else near(gap, half, values, float(text), n))
    return torch.stack(lines)


FITS = Choices(
    fits_like,
    {
        "digits": (
            ("the digits of the text are not read: you round everything to whole numbers", lambda text: 0),
            ("the digits of the text are not read: you round everything to one digit", lambda text: 1),
            ("the digits of the text are not read: you round everything to two digits", lambda text: 2),
            (
                "you count the digits before the point; those behind it say how fine the number is",
                lambda t: len(t.partition(".")[0]),
            ),
            ("you count all the characters; only those behind the point say how fine the number is", len),
        ),
        "room": (
            (
                "you allow a whole unit of the last digit: what is further than half of one rounds to a neighbour",
                lambda n, stated: 10.0**-n,
            ),
            ("you allow 1 %: a printed number says more than that", lambda n, stated: 0.01 * abs(stated)),
            (
                "you allow a tenth of a unit of the last digit: half of one still rounds to it",
                lambda n, stated: 0.1 * 10.0**-n,
            ),
            ("you ask for equal numbers: a printed one is rounded", lambda n, stated: 1e-9),
            ("you allow five units of the last digit: half of one, 0.5", lambda n, stated: 5 * 10.0**-n),
        ),
        "near": (
            (
                "only values above what is printed fit: rounding goes both ways, so take `abs`",
                lambda gap, half, *_: (gap >= 0) & (gap <= half),
            ),
            (
                "only values below what is printed fit: rounding goes both ways, so take `abs`",
                lambda gap, half, *_: (gap <= 0) & (gap >= -half),
            ),
            ("a large difference with a minus sign counts as small: take `abs`", lambda gap, half, *_: gap <= half),
            (
                "you cut digits off; printed numbers are rounded",
                lambda gap, half, values, stated, n: ((values * 10.0**n).floor() - round(stated * 10.0**n)).abs() < 0.5,
            ),
            ("true and false are exchanged", lambda gap, half, *_: gap.abs() > half),
        ),
    },
)


def printed_and_found(seed: int) -> tuple:
    """Printed numbers of 0 to 2 digits, and values around them."""
    (r,) = randoms(seed + 1)[seed:]
    digits = [r.randint(0, 2) for _ in range(3)]
    stated = tuple(f"{r.uniform(2, 300):.{n}f}" for n in digits)
    values = [float(text) + r.uniform(-1.2, 1.2) * 10.0**-n for text, n in zip(stated, digits) for _ in range(3)]
    return stated, torch.tensor(values, dtype=torch.float64)


EXERCISES["10.2"] = Exercise(
    "what fits to a printed number",
    fits_literal,
    lambda: [
        (
            ("52.9", "53.2"),
            torch.tensor([53.2691, 52.9415, 52.8451, 53.16, 53.24, 53.9, 53.20003], dtype=torch.float64),
        ),
        (
            ("170", "36.6", "4.49"),
            torch.tensor([169.6, 170.45, 36.6107, 36.64, 36.66, 4.4938, 4.4871, 4.4899], dtype=torch.float64),
        ),
        (("200.0",), torch.tensor([199.9995, 196.954, 200.04, 200.3, 199.93, 200.049], dtype=torch.float64)),
    ],
    lambda stated, values: f"(S, V) = ({len(stated)}, {len(values)})",
    (),
    piece=fits_literal,
    more=lambda: [printed_and_found(seed) for seed in range(6)],
    kinds=(FITS,),
)


# ---------------------------------------------------------------- 10.3: a claim and its mutant

MODELS = SimpleNamespace(
    swin=swin,
    video_swin=video_swin,
    mvit=mvit,
    timesformer=timesformer,
    uniformer=uniformer,
    layers=layers,
    fast=fast,  # the masks of shifted windows that run; `shift_mask` of `swin` is the readable version
)
HOLDS, REFUTED, BROKEN = 1, 0, -1
ALONE, FAULTY, OTHERS, AFTER = ("as it is", "with your fault", "on other papers, with your fault", "after your fault")
# Claims of five papers that run in little time: what no fault of one model may turn red altogether.
CONTROLS = (
    "swin-odd-window-shift",
    "vswin-8-windows",
    "mvit-pooling-attention",
    "ts-block-divided",
    "ts-n-f-2",
    "uf-tube-27",
    "uf-local-block",
)


def trial_literal(code):
    """What a good claim gives: 1 where it holds, 0 where it is refuted."""
    return torch.tensor(REFUTED if code == FAULTY else HOLDS)


def trial_like(code, **changed):
    """The trials with other results: {"alone": 0, ...}."""
    usual = dict(alone=HOLDS, faulty=REFUTED, others=HOLDS, after=HOLDS) | changed
    return usual[{ALONE: "alone", FAULTY: "faulty", OTHERS: "others", AFTER: "after"}[code]]


def trial_of(new_claim: Callable) -> Callable:
    """trial(code): the claim that `new_claim()` gives, tried on the code as it is, with the fault, and after it.

    trial.saw: what the check gave in each trial, in words.
    """
    saw = {}

    def trial(code):
        from vt_course.claims.ledger.running import forget
        from vt_course.lab import companion

        told = new_claim()
        if told is None:
            return None
        need(
            isinstance(told, tuple) and len(told) == 2 and isinstance(told[0], dict) and callable(told[1]),
            "return two things, `claim, fault`: a dict and a function",
        )
        claim, fault = read(told[0]), told[1]
        with as_before(), named_changes() as changes:
            forget()
            if code != ALONE:
                fault(changes, MODELS)
            if code == AFTER:
                changes.close()  # whatever was set by `changes` is set back
            try:
                if code == OTHERS:
                    controls = [companion.told()[id] for id in CONTROLS]
                    green = [outcome(control)[0] for control in controls if control.paper != claim.paper]
                    holds = green.count(HOLDS)
                    saw[code] = f"{holds} of {len(green)} claims of the other papers hold, most of them must"
                    return torch.tensor(HOLDS if 3 * holds > 2 * len(green) else REFUTED)
                found, gave = outcome(claim)
                held = {HOLDS: "holds", REFUTED: "is refuted", BROKEN: "cannot be tried"}[found]
                must = "it must be refuted" if code == FAULTY else "it must hold"
                saw[code] = f"your claim {held} ({gave}, you state {claim.stated}), {must}"
                return torch.tensor(found)
            finally:
                forget()

    trial.saw = saw
    return trial


def named_changes():
    """`Changes` that say in a sentence which name a fault asks for in vain."""
    from vt_course.claims.ledger.faults import Changes

    def called(owner) -> str:
        names = [f"models.{name}" for name, module in vars(MODELS).items() if module is owner]
        return names[0] if names else getattr(owner, "__name__", type(owner).__name__)

    class Named(Changes):
        def set(self, owner, name: str, value) -> None:
            if name not in vars(owner):
                others = [called(module) for module in vars(MODELS).values() if name in vars(module)]
                remedy = f"{others[0]} has it" if others else "set a name that the module or the class itself defines"
                raise CourseError(f"your fault: `{called(owner)}` has no `{name}`; {remedy}")
            super().set(owner, name, value)

        def entry(self, table: dict, key: str, value) -> None:
            need(key in table, f"your fault: the dict has no key {key!r}; it has {', '.join(map(repr, table))}"[:300])
            super().entry(table, key, value)

    return Named()


def read(told: dict):
    """The claim of a reader. Raises `CourseError` in one sentence for what the ledger would refuse."""
    from vt_course.claims.ledger.claims import check_link, read_claim
    from vt_course.lab import companion

    entry = {key: value for key, value in told.items() if key != "paper"}
    papers = list(dict.fromkeys(claim.paper for claim in companion.told().values()))
    need(told.get("paper") in papers, f"your claim: paper must be one of {', '.join(papers)}")
    claim = read_claim(entry, "structure", dict(paper=told["paper"], version="", teaches={}), "your claim")
    check_link(claim.teaches, "your claim")
    for other in companion.told().values():
        same = (other.check, other.arguments) == (claim.check, claim.arguments)
        need(
            not same and other.id != claim.id,
            f"the ledger has this claim already, as {other.id}: find one that it lacks",
        )
    return claim


def outcome(claim) -> tuple[int, str]:
    """1: the claim came out as it should. 0: it is refuted. -1: its check raised an error, so it says nothing.

    And what the check gave, in words.
    """
    from vt_course.claims.ledger import run
    from vt_course.claims.ledger.running import CHECKS, Refuted

    try:
        value = CHECKS[claim.check](**claim.arguments)
        found = run.judged(claim, value)
    except CourseError:
        raise
    except Refuted as error:
        return REFUTED, f"the check says: {error}"
    except Exception as error:  # changed code may raise anything
        said = str(error).partition("\n")[0][:120]
        return BROKEN, f"the check ended in {type(error).__name__}: {said}"
    held = found == (claim.status or found) and (claim.status or found != run.DIFFERS)
    return HOLDS if held else REFUTED, f"the check gave {value}"


@contextmanager
def as_before():
    """At the end, all names of the model files and of their classes are what they were, however they were changed."""
    owners = list(vars(MODELS).values())
    owners += [
        each
        for module in owners
        for each in vars(module).values()
        if isclass(each) and each.__module__ == module.__name__
    ]
    kept = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, names in kept:
            now = dict(vars(owner))
            for name in now.keys() - names.keys():
                delattr(owner, name)
            for name in [name for name, value in names.items() if now.get(name, kept) is not value]:
                setattr(owner, name, names[name])


TRIALS = Choices(
    trial_like,
    {
        "faulty": (
            (
                "your claim stays green with the fault in place: the fault changes nothing that this check runs, so "
                "nothing shows that the check looks (the masks of shifted windows that run come from "
                "`models.fast.known_kinds`; `shift_mask` is the readable version)",
                HOLDS,
            ),
            (
                "with the fault the check ends in an error instead of another value: a program that stops proves "
                "nothing about the claim; let the fault change what is computed, and keep the shapes that the code "
                "needs",
                BROKEN,
            ),
        ),
        "others": (
            (
                "the fault breaks other papers' claims as well: a fault that turns everything red proves nothing about "
                "yours; change one function of one model",
                REFUTED,
            ),
        ),
        "after": (
            (
                "the fault stays when it should be gone: use `change.set(owner, name, value)`, which is undone, "
                "in place of an assignment (the check has put everything back)",
                REFUTED,
            ),
        ),
    },
    (
        (
            "the claim does not hold for the code as it is: run its check first and look at what it gives",
            dict(alone=REFUTED, after=REFUTED),
        ),
        (
            "the claim does not hold for the code as it is, but with your fault it does: which one is the paper's?",
            dict(alone=REFUTED, faulty=HOLDS, after=REFUTED),
        ),
        (
            "the check ends in an error for the code as it is: do its arguments, in `with`, have the names that the "
            "check asks for, and does the model have this part?",
            dict(alone=BROKEN, faulty=BROKEN, after=BROKEN),
        ),
    ),
)


def new_claim():
    """The course's own: windows that are not square."""
    claim = {
        "id": "swin-windows-2-by-3",
        "paper": "Swin",
        "where": "section 3.2, figure 2",
        "claim": "6 x 9 tokens in windows of 2 x 3, shifted by 1 and 1, are cut into 4 x 4 windows.",
        "check": "groups_that_see_each_other",
        "with": {"window": [2, 3], "shift": [1, 1], "size": [6, 9]},
        "stated": 16,
        "teaches": "03, section 5",
    }

    def fault(change, models):
        real = models.swin.clamp_window
        change.set(
            models.swin, "clamp_window", lambda size, window, shift: (real(size, window, shift)[0], (0,) * len(size))
        )

    return claim, fault


EXERCISES["10.3"] = Exercise(
    "a claim and its mutant",
    trial_literal,
    lambda: [(ALONE,), (FAULTY,), (OTHERS,), (AFTER,)],
    lambda code: "1 if the claim holds, 0 if it is refuted",
    (),
    piece=new_claim,
    kinds=(TRIALS,),
    drive=trial_of,
    by_hand="it runs the ledger of the course, which a submission must not reach",
    words=lambda trial, code: f"tried {code}: {trial.saw[code]}" if code in trial.saw else "",
)
