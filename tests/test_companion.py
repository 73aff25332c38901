"""Notebook 10's tables and figures: they say what the ledger says, and the parts of a network are the whole."""

import re

import matplotlib.pyplot as plt
import pytest
from test_show import assert_readable

from vt_course import CourseError
from vt_course.claims.ledger import run
from vt_course.claims.ledger.claims import KINDS, STATUSES
from vt_course.lab import companion, show
from vt_course.lab.check import verdict
from vt_course.lab.exercises import EXERCISES, paper_companion
from vt_course.lab.show.anatomy import parts
from vt_course.models import ZOO, swin

PAPERS = ("Swin", "Video Swin", "MViT", "TimeSformer", "UniFormer")
MODELS = ("swin_tiny", "video_swin_tiny", "mvit_base_16x4", "timesformer_divided_8x224", "uniformer_small_16")


# ---------------------------------------------------------------- the ledger


@pytest.mark.parametrize("by", ["paper", "kind"])
def test_every_claim_is_counted_once(by):
    counted = companion.counts(by)
    assert list(counted) == list(PAPERS if by == "paper" else KINDS)
    for status in STATUSES:
        found = [entry for entry in companion.ledger().values() if entry["status"] == status]
        assert sum(each[status] for each in counted.values()) == len(found)
    assert companion.count_table(by).rows[-1][-1] == len(companion.ledger())


def test_claims_are_found_by_their_filters_and_words():
    table = companion.claims(paper="Video Swin", kind="structure", words="27 windows")
    assert "vswin-27-windows" in [row[0] for row in table.rows]
    every = companion.claims(paper="MViT")
    assert len(every) == companion.SHOWN and f"The first {companion.SHOWN} are shown" in every.note
    assert run.status_line(run.select(list(companion.ledger().values()), paper="MViT")) in every.note
    assert companion.claims(words="no such words").note == "none"


@pytest.mark.parametrize(
    "filters, words",
    [
        ({"paper": "Mvit"}, "no claim has the paper 'Mvit'; there are MViT, Swin"),
        ({"status": "wrong"}, "no claim has the status 'wrong'; there are differs, exact"),
        ({"kind": "costs"}, "no claim has the kind 'costs'; did you mean cost?"),
    ],
)
def test_a_filter_that_nothing_has_is_refused(filters, words):
    with pytest.raises(CourseError) as error:
        companion.claims(**filters)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("paper", PAPERS)
def test_the_tables_of_a_paper_hold_all_its_claims_of_these_kinds(paper):
    entries = companion.select(paper=paper)
    lengths = {
        companion.deviations: [e for e in entries if e["kind"] == "deviation"],
        companion.trends: [e for e in entries if e["kind"] == "trend"],
        companion.ablations: [e for e in entries if e["kind"] in ("cost", "parameters") and not e["generated"]],
        companion.main_table: {
            e["arguments"]["model"] for e in entries if e["generated"] and "model" in e["arguments"]
        },
        companion.open_questions: [
            e for e in entries if e["status"] in ("undecided", "not run") and e["kind"] != "accuracy"
        ],
    }
    unread = [e for e in entries if e["status"] == "unverified source" and e["kind"] != "accuracy"]
    lengths[companion.open_questions] += unread[:1]  # they are one row
    for table, wanted in lengths.items():
        made = table(paper)
        assert len(made) == len(wanted) and all(len(row) == len(made.headings) for row in made.rows), table.__name__
    stated = {e["arguments"]["model"]: e for e in entries if e["generated"] and e["kind"] == "parameters"}
    for model, *cells in companion.main_table(paper).rows:
        if model in stated:
            assert cells[0] == companion.value(stated[model]["stated"]) and cells[3] == companion.mark(stated[model])


def test_a_trend_stands_beside_its_scale():
    headings, rows = companion.trends("TimeSformer").headings, companion.trends("TimeSformer").rows
    scale = headings.index("ours: model, data, input")
    assert all(re.search(r"_mini, (motion|appearance), 3 × 8 × 32 × 32", row[scale]) for row in rows)
    compared = [row[:3] + (row[scale],) for row in rows]
    assert len(set(compared)) == len(compared), "two rows that nobody can tell apart"


def test_a_table_is_html_on_a_page_and_text_elsewhere():
    table = companion.Table(("one", "other"), [("a < b", 3), ("", 12)], "a & b")
    html = table._repr_html_()
    assert "<td" in html and "a &lt; b" in html and "a &amp; b" in html and html.count("<tr>") == 3
    assert repr(table) == "one    other\na < b  3\n       12\na & b"


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"stated": 200.0, "found": 196.954}, "−1.5 %"),
        ({"stated": 28, "found": 28.2884}, "+1.0 %"),
        ({"stated": True, "found": True}, ""),
        ({"stated": 0, "found": 0}, ""),
        ({"stated": [1], "found": [2]}, ""),
        ({"stated": 78.0, "found": "4x3"}, ""),
    ],
)
def test_a_difference_is_in_percent_of_theirs(entry, text):
    assert companion.difference(entry) == text


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("model", MODELS)
def test_the_parts_of_a_network_are_the_whole_and_what_the_ledger_has(model):
    rows, ledger = parts(model), companion.ledger()
    for key, quantity, unit in (("parameters", "parameters", 1e6), ("macs", "gmacs", 1e9)):
        found = sum(sum(row[key].values()) for row in rows) / unit
        assert found == pytest.approx(ledger[f"{model}-{quantity}"]["found"], rel=1e-5)
    heads = [row["heads"] for row in rows if row["blocks"]]
    assert [row["name"] for row in rows][:: len(rows) - 1] == ["embedding", "norm and head"] and heads == sorted(heads)
    depths = ZOO[model].config.get("depths")
    assert depths is None or [row["blocks"] for row in rows if row["blocks"]] == list(depths)


def test_a_part_that_is_not_counted_is_noticed(monkeypatch):
    real = show.anatomy.__wrapped__.__globals__["prod"]
    monkeypatch.setitem(show.anatomy.__wrapped__.__globals__, "prod", lambda numbers: real(numbers) + 1)
    with pytest.raises(CourseError, match="the parts of swin_mini have .* macs, the whole has"):
        parts("swin_mini")
    with pytest.raises(CourseError, match="there is no model 'swin_tinny'; did you mean swin_tiny?"):
        parts("swin_tinny")


@pytest.mark.parametrize("model", ["video_swin_tiny", "timesformer_divided_8x224", "mvit_base_24_32x3"])
def test_an_anatomy_is_readable(model):
    fig = show.anatomy(model, "A network")
    assert plt.get_fignums() == [] and fig.get_suptitle().startswith("A network: ")
    assert_readable(fig)


def test_an_anatomy_says_what_attends_to_what():
    texts = [text.get_text() for text in show.anatomy("timesformer_divided_8x224").axes[0].texts]
    assert "196 × (8 → 8) and 8 × (197 → 197)" in texts and "12 blocks" in texts
    texts = [text.get_text() for text in show.anatomy("mvit_base_16x4").axes[0].texts]
    assert "25,089 → 393" in texts and "6,273 × 192" in texts


def test_bars_of_statuses_are_as_long_as_the_counts():
    groups = {"by paper": companion.counts("paper"), "by kind": companion.counts("kind")}
    fig = show.statuses(groups, "All")
    for axes, bars in zip(fig.axes, groups.values()):
        assert sum(bar.get_width() for bar in axes.patches) == len(companion.ledger())
        assert [label.get_text() for label in axes.get_yticklabels()] == list(bars)
    assert_readable(fig)


def test_the_landscape_draws_each_stated_number_once():
    points = companion.landscape()
    assert {p["family"] for p in points if p["model"] == "vit_base_8x8"} == {"ViT"}
    names = {"K400": {"vit_base_8x8": "ViT-B"}}
    fig = show.landscape(points, {"K400": "Kinetics", "SSv2": "Something", "IN-1K": "ImageNet"}, "Theirs", names)
    assert [text.get_text() for axes in fig.axes for text in axes.texts] == ["ViT-B"]
    for panels, data in zip((fig.axes[:2], fig.axes[2:4], fig.axes[4:]), ("K400", "SSv2", "IN-1K")):
        for axes, cost in zip(panels, ("gmacs", "parameters")):
            drawn = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines)
            told = [(p[cost], p["accuracy"]) for p in points if p["data"] == data and p[cost] is not None]
            assert drawn == sorted(told)
    hollow = sum(line.get_markerfacecolor() == "none" for axes in fig.axes[:2] for line in axes.lines)
    assert hollow == sum(
        not p["firm"] for p in points if p["data"] == "K400" for cost in ("gmacs", "parameters") if p[cost] is not None
    )
    assert_readable(fig)
    with pytest.raises(CourseError, match="no variant has an accuracy on 'K40'"):
        show.landscape(points, {"K40": "Kinetics"})


def test_the_cost_of_an_answer_is_that_of_all_its_views():
    (point,) = [p for p in companion.landscape() if p["model"] == "video_swin_base" and p["data"] == "K400"]
    assert point["views"] == "4x3" and point["gmacs"] == pytest.approx(12 * 281.6) and point["firm"]


# ---------------------------------------------------------------- exercise 10.3


def test_models_are_whole_after_a_fault_of_any_kind():
    real = swin.clamp_window, swin.WindowAttention.forward
    with pytest.raises(ZeroDivisionError), paper_companion.as_before():
        swin.clamp_window, swin.WindowAttention.forward = None, None
        swin.WindowAttention.added = 1
        del swin.SwinBlock
        raise ZeroDivisionError
    assert (swin.clamp_window, swin.WindowAttention.forward) == real
    assert not hasattr(swin.WindowAttention, "added") and swin.SwinBlock


def test_the_controls_hold_and_run_something():
    told = companion.told()
    assert {told[id].paper for id in paper_companion.CONTROLS} == set(PAPERS)
    assert {paper_companion.outcome(told[id])[0] for id in paper_companion.CONTROLS} == {paper_companion.HOLDS}


def trial(stated, fault, **told):
    """The verdict of exercise 10.3 on a claim about windows of 2 x 3, of which there are 16."""
    claim = paper_companion.new_claim()[0] | {"stated": stated} | told
    exercise = EXERCISES["10.3"]
    return verdict("10.3", exercise, lambda: (claim, fault), exercise.cases()).text


NO_MASK = "known_kinds", lambda *key: [(rows, None) for rows, _ in swin_kinds(*key)]
swin_kinds = paper_companion.MODELS.fast.known_kinds


@pytest.mark.parametrize(
    "stated, owner, name, value, words",
    [
        (16, "fast", *NO_MASK, "✓ exercise 10.3"),
        (13, "fast", *NO_MASK, "tried as it is: your claim is refuted (the check gave 16, you state 13), it must hold"),
        (16, "swin", "shift_mask", None, "tried with your fault: your claim holds (the check gave 16, you state 16)"),
        (16, "swin", "shift_mask", None, "`models.fast.known_kinds`"),
        (16, "swin", "window_mask", None, "`models.swin` has no `window_mask`; set a name that"),
        (16, "swin", "known_kinds", None, "`models.swin` has no `known_kinds`; models.fast has it"),
        (16, "fast", "known_kinds", None, "cannot be tried (the check ended in TypeError"),
    ],
)
def test_a_claim_that_fails_is_told_in_words(stated, owner, name, value, words):
    def fault(change, models):
        change.set(getattr(models, owner), name, value)

    said = trial(stated, fault)
    assert words in said and "got " not in said and "Error on" not in said
