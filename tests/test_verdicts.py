"""Verdicts: whether a result agrees with the sign of what a paper states."""

import pytest
import yaml

from vt_course.training.experiments import results, rows, verdicts
from vt_course.training.experiments.verdicts import AGREES, DISAGREES, NO_CLAIM, NOT_RUN, UNDECIDED


@pytest.mark.parametrize(
    "claimed, low, high, said",
    [
        (1.2, 0.1, 3.0, AGREES),
        (-1.2, -3.0, -0.1, AGREES),
        (1.2, -3.0, -0.1, DISAGREES),
        (-0.1, 0.1, 3.0, DISAGREES),
        (1.2, -0.1, 3.0, UNDECIDED),
        (-1.2, -3.0, 0.0, UNDECIDED),  # an interval that ends at 0 contains it
        (0.0, 0.1, 3.0, DISAGREES),
        (0.0, -0.1, 0.1, UNDECIDED),
        (1.2, None, None, UNDECIDED),
        (None, 0.1, 3.0, NO_CLAIM),
    ],
)
def test_verdict(claimed, low, high, said):
    assert verdicts.verdict(claimed, low, high) == said


@pytest.fixture
def row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "repo_root", lambda: tmp_path)
    entry = {
        "id": "small",
        "question": "Does it?",
        "paper": "Swin",
        "table": "table 4",
        "expectation": "It does.",
        "data": "synthetic:motion",
        "model": "video_swin_mini",
        "seeds": [0, 1, 2],
        "test": ["normal", "shuffled"],
        "minutes": 1,
        "variants": {
            "first": {"stated": {"top-1": 80.0, "AP": 40.0}},
            "lower": {"config": {"shift": False}, "stated": {"top-1": 79.0, "AP": 39.5}},
            "mixed": {"config": {"relative_bias": False}, "stated": {"top-1": 79.0, "AP": 41.0}},
            "ours": {"config": {"embed_dim": 48}},
        },
    }
    (tmp_path / "experiments.yaml").write_text(yaml.safe_dump([entry], sort_keys=False), encoding="utf-8")
    (row,) = rows.read_rows()
    return row


def with_runs(row, **values):
    """The result of a row whose variants have these accuracies in order, by seed; shuffled they all have 0.1."""
    result = results.begin(row, {})
    for name, each in values.items():
        for seed, value in zip(row.seeds, each):
            top1 = {"normal": value, "shuffled": 0.1}
            results.add_run(result, name, dict(seed=seed, top1=top1, seconds=1, peak_memory_mb=1, row=result["hash"]))
    results.write_result(result)
    return results.read_result(row.id)


def test_a_row_without_runs_is_not_run(row):
    (line,) = verdicts.table([row])
    assert line["verdict"] == NOT_RUN and line["state"] == "not run" and line["here"] == ""
    assert line["claim"] == "lower: −1.0 (top-1), −0.5 (AP)"  # the paper says two things of "mixed"
    assert [each["verdict"] for each in line["comparisons"]] == [NOT_RUN] * 3  # and no pair of two others
    assert verdicts.of_row(row, results.begin(row, {}))["verdict"] == NOT_RUN


@pytest.mark.parametrize(
    "lower, said",
    [([0.70, 0.72, 0.71], AGREES), ([0.95, 0.97, 0.96], DISAGREES), ([0.95, 0.7, 0.9], UNDECIDED), ([0.7], UNDECIDED)],
)
def test_the_verdict_of_a_row(row, lower, said):
    result = with_runs(row, first=[0.9, 0.91, 0.92], lower=lower, ours=[0.1, 0.1, 0.11])
    (line,) = verdicts.table([row])
    assert line["verdict"] == said and result
    by_name = {each["variant"]: each for each in line["comparisons"]}
    assert by_name["lower"]["verdict"] == said and by_name["lower"]["seeds"] == len(lower)
    assert by_name["mixed"]["verdict"] == NOT_RUN and by_name["ours"]["verdict"] == NO_CLAIM
    assert by_name["ours"]["mean"] == pytest.approx(-80.67, abs=0.01) and by_name["ours"]["against"] == "first"
    assert "mixed: not run" in line["here"]
    if said == AGREES:
        assert "lower: −20.0 [−22.5, −17.5], 3 seeds" in line["here"]
    if len(lower) == 1:
        assert "lower: −20.0, 1 seed;" in line["here"]


def test_the_order_of_a_paper_is_judged_too(row):
    """Both others are below the first, as the paper says, but the paper's lowest is not ours."""
    for name, value in (("lower", 79.0), ("mixed", 78.0)):
        row.told["variants"][name]["stated"] = {"top-1": value}
    result = with_runs(row, first=[0.9, 0.91, 0.92], lower=[0.5, 0.51, 0.53], mixed=[0.7, 0.72, 0.71])
    line = verdicts.of_row(row, result)
    said = {(each["variant"], each["against"]): each["verdict"] for each in line["comparisons"]}
    assert said["lower", "first"] == said["mixed", "first"] == AGREES and said["mixed", "lower"] == DISAGREES
    assert line["verdict"] == DISAGREES and "mixed against lower: −1.0 (top-1)" in line["claim"]
    assert "mixed against lower: +19.7 [" in line["here"] and len(said) == 4


def test_without_a_claim_accuracies_are_told(row):
    for variant in row.told["variants"].values():
        variant.pop("stated", None)
    result = with_runs(row, first=[0.9, 0.91, 0.92], lower=[0.7])
    line = verdicts.of_row(row, result)
    assert line["verdict"] == NO_CLAIM and line["claim"] == "none"
    assert line["here"].startswith(
        "first: 91.0 normal, 10.0 shuffled, 3 seeds; lower: 70.0 normal, 10.0 shuffled, 1 seed;"
    )
    assert line["here"].endswith("mixed: not run; ours: not run")


def test_a_stale_result_is_not_read(row, tmp_path):
    with_runs(row, first=[0.9, 0.91, 0.92], lower=[0.7, 0.71, 0.72])
    text = (tmp_path / "experiments.yaml").read_text(encoding="utf-8").replace("It does.", "It does not.")
    (tmp_path / "experiments.yaml").write_text(text, encoding="utf-8")
    (line,) = verdicts.table(rows.read_rows())
    assert line["verdict"] == NOT_RUN and line["state"] == "stale"


def test_a_claim_may_be_that_there_is_no_difference():
    assert verdicts.sign({"top-1": 0.0}) == 0 and verdicts.sign({}) is None
    assert verdicts.sign({"a": -1.0, "b": -0.1}) == -1 and verdicts.sign({"a": -1.0, "b": 0.1}) is None
    assert verdicts.signed(-0.04) == "0.0" and verdicts.signed(-0.06) == "−0.1" and verdicts.signed(2) == "+2.0"


def test_the_rows_of_the_checkout_can_be_judged():
    table = verdicts.table(rows.read_rows())
    said = {line["id"]: line["verdict"] for line in table}
    assert said["families-motion"] == said["ceilings-motion"] == NO_CLAIM  # no paper has these clips
    without = {line["id"] for line in table if line["claim"] == "none" and line["paper"] != "none"}
    assert without == {"families-appearance"}  # MViT's table 9 compares orders of frames, not variants
    assert set(said.values()) <= {AGREES, DISAGREES, UNDECIDED, NOT_RUN, NO_CLAIM}


def test_an_inflated_start_depends_on_its_image_model():
    (row,) = [row for row in rows.read_rows() if row.id == "video-swin-inflation"]
    assert row.depends_on()["models"].keys() == {"video_swin_mini", "swin_mini"}
    assert [recipe.inflate.get("mode") for recipe in row.recipes.values()] == ["average", "centre", None]
