"""Plans, questions, misconceptions, sheets: in step with the notebooks, and true where a number can be computed."""

import ast
import math
import re
from dataclasses import replace

import pytest

from vt_course import CourseError, repo_root
from vt_course.cli import main
from vt_course.fetch import assets
from vt_course.lab.exercises import EXERCISES
from vt_course.publish import printing
from vt_course.publish.teaching import pages, sheets
from vt_course.publish.teaching.plans import IN_CLASS, lesson
from vt_course.publish.teaching.questions import Question, bank_pages, check_bank, read_bank

ROOT = repo_root()
BANK = read_bank()
PROOFS = [(stem, question) for stem, questions in BANK.items() for question in questions if question.proof]
FAKE = {inside: b"" for package in assets.PACKAGES for inside in package.files.values()}


@pytest.fixture(scope="module")
def outlines():
    return pages.outlines()


def test_the_pages_are_in_step(tmp_path, monkeypatch, capsys, outlines):
    monkeypatch.setattr(pages, "outlines", lambda root=None: outlines)
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(pages, "repo_root", lambda: tmp_path)
    made = pages.pages(outlines)
    assert main(["pages"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["page", "state"] and out.count(" written\n") == len(made)
    assert main(["pages"]) == 0 and capsys.readouterr().out.count(" in step\n") == len(made)
    assert {path.name for path in (tmp_path / "docs").iterdir()} == made.keys()
    for name, text in made.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run `vt-course pages`"


# ---------------------------------------------------------------- plans


def test_an_outline_has_all_that_a_notebook_offers(outlines):
    exercises = [exercise for plan in outlines for exercise in plan.exercises]
    assert {exercise.number for exercise in exercises} == EXERCISES.keys() and len(exercises) == len(EXERCISES)
    for plan in outlines:
        assert len(plan.goals) >= 4 and len(plan.questions) >= 3
        assert [int(part.number) for part in plan.parts] == list(range(1, len(plan.parts) + 1))
        assert all(exercise.section in {part.number for part in plan.parts} for exercise in plan.exercises)


@pytest.mark.parametrize("minutes", IN_CLASS)
def test_a_lesson_is_as_long_as_it_should_be_and_leaves_nothing_out(minutes, outlines):
    for plan in outlines:
        made = lesson(plan, minutes)
        assert sum(spent for spent, _ in made.rows) == minutes and min(spent for spent, _ in made.rows) >= 1, plan.stem
        text = "\n".join(what for _, what in made.rows)
        shown = re.findall(r"^Section (\d+), ", text, re.MULTILINE)
        assert sorted([*shown, *made.left_out], key=int) == [part.number for part in plan.parts]
        solved = re.findall(r"exercise (\d+\.\d+)\*\*", text)
        at_home = [exercise.number for exercise in made.at_home]
        assert sorted(solved + at_home) == sorted(e.number for e in plan.exercises)
        for number in solved:  # who solves an exercise in class has seen its section
            section = next(e.section for e in plan.exercises if e.number == number)
            assert section in shown and text.index(f"Section {section},") < text.index(f"exercise {number}*")
        assert len(shown) >= 3 and solved


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize("stem, question", PROOFS, ids=lambda value: getattr(value, "q", value)[:40])
def test_a_number_in_an_answer_is_computed(stem, question):
    allowed = {name: getattr(math, name) for name in ("sqrt", "log", "cos", "pi")} | {"round": round, "abs": abs}
    value = eval(question.proof, {"__builtins__": {}}, allowed | {"range": range})
    assert value is True
    # The proof is about the answer: one of the numbers that it says stands in it.
    said = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", question.a)}
    used = {node.value for node in ast.walk(ast.parse(question.proof)) if isinstance(node, ast.Constant)}
    words = {"half": 0.5, "quarters": 0.75, "one": 1.0, "four": 4.0}
    said |= {value for word, value in words.items() if word in question.a.lower()}
    said |= {number / 100 for number in said} | {number / 1000 for number in said}
    assert said & {float(number) for number in used}, (said, used)


def test_every_notebook_has_questions_and_every_goal_one(outlines):
    check_bank(BANK, outlines)
    assert len(PROOFS) >= 50
    for plan in outlines:
        assert {question.goal for question in BANK[plan.stem]} == set(range(1, len(plan.goals) + 1)), plan.stem


def test_the_answers_stand_apart(outlines):
    made = bank_pages(BANK, outlines)
    names = {name: re.findall(r"^- \*\*([\d-]+)\*\*", text, re.MULTILINE) for name, text in made.items()}
    assert names["questions.md"] == names["answers.md"] and len(names["answers.md"]) >= 10 * len(outlines)
    for plan in outlines:
        assert all(question.a not in made["questions.md"] for question in BANK[plan.stem] if len(question.a) > 15)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda bank: bank.pop("03_swin"), "03_swin has 0 questions"),
        (lambda bank: bank.update({"03_swin": bank["03_swin"][:9]}), "03_swin has 9 questions"),
        (lambda bank: bank["03_swin"].append(Question(99, "Why?", "So.")), "tests goal 99, of 6"),
        (lambda bank: bank["03_swin"].append(Question(1, "Why?", "")), "lacks a question or an answer"),
        (lambda bank: bank["03_swin"].append(replace(bank["03_swin"][0])), "is asked twice"),
    ],
)
def test_a_damaged_bank_is_refused(change, message, outlines):
    bank = {stem: list(questions) for stem, questions in BANK.items()}
    change(bank)
    with pytest.raises(CourseError, match=message):
        check_bank(bank, outlines)


def test_a_question_with_another_key_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text('"03_swin":\n- {goal: 1, question: "Why?", a: "So."}\n', encoding="utf-8")
    with pytest.raises(CourseError, match="a question of 03_swin has other keys than goal, q, a, proof"):
        read_bank(tmp_path / "a.yaml")


# ---------------------------------------------------------------- misconceptions and reading


def test_every_mistake_that_a_check_knows_is_on_the_page(outlines):
    text = pages.misconceptions_page(outlines)
    sentences = [sentence for exercise in EXERCISES.values() for sentence, _ in exercise.mistakes]
    assert len(sentences) > 150 and all(sentence[1:] in text for sentence in sentences)


def test_what_the_notebooks_cite_is_on_the_reading_list():
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "notebooks" / "src").glob("*.py"), ROOT / "README.md"]
    cited = {number for path in sources for number in re.findall(r"\b\d{4}\.\d{5}\b", path.read_text(encoding="utf-8"))}
    listed = re.findall(r"\[arXiv (\d{4}\.\d{5})\]\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", text)
    assert len(cited) >= 6 and cited <= {number for number, _ in listed} and all(a == b for a, b in listed)
    for owner in ("microsoft", "SwinTransformer", "facebookresearch", "Sense-X"):
        assert f"https://github.com/{owner}/" in text


# ---------------------------------------------------------------- sheets


def test_the_handout(monkeypatch, tmp_path, capsys, outlines):
    monkeypatch.setattr(assets, "assets", lambda progress: FAKE)
    monkeypatch.setattr(sheets, "outlines", lambda root, names: [plan for plan in outlines if plan.stem == "03_swin"])
    monkeypatch.setattr(printing, "print_pdf", lambda page, pdf, pages, **_: pages or 3)
    assert main(["handout", "03", "--pdf", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines()[0].split() == ["notebook", "sheet", "page", "pages", "PDF"]
    lab = (tmp_path / "lab_03_swin.html").read_text(encoding="utf-8")
    swin = (tmp_path / "swin_two_pages.html").read_text(encoding="utf-8")
    plan = next(plan for plan in outlines if plan.stem == "03_swin")
    assert all(exercise.number in lab for exercise in plan.exercises) and lab.count("<li>") == len(
        [*plan.goals, *plan.predictions, *plan.questions]
    )
    for text in (lab, swin):
        assert "http" not in text.replace("http-equiv", "") and "**" not in text
        named = re.findall(r'(?:src|href)="([^"]+)"', text)
        assert all(name == "data:," or (tmp_path / name).is_file() for name in named)


def test_the_numbers_of_the_handout_are_those_of_the_paper_where_they_agree():
    """Table 7 of Swin, 224 pixels: 28.3 M, 49.6 M, 87.8 M; 4.5 G, 8.7 G, 15.4 G (it states the 384-pixel Swin-L)."""
    sizes = {name: (round(p / 1e6, 1), round(macs / 1e9, 1)) for name, p, macs in sheets.swin_sizes()}
    assert sizes["swin_tiny"] == (28.3, 4.5) and sizes["swin_small"] == (49.6, 8.7)
    assert sizes["swin_base"] == (87.8, 15.4) and sizes["swin_large"] == (196.5, 34.5)
    assert sheets.swin_shapes() == [(96, 56, 56, 3, 2), (192, 28, 28, 6, 2), (384, 14, 14, 12, 6), (768, 7, 7, 24, 2)]
