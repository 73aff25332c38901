"""The bank of questions: read, checked against the goals of the notebooks, and written as two pages."""

from dataclasses import dataclass
from pathlib import Path

from vt_course import CourseError, need
from vt_course.files import read_yaml
from vt_course.publish.teaching.outline import Outline

BANK = Path(__file__).with_name("questions.yaml")


@dataclass(frozen=True)
class Question:
    """goal: the number of the goal of its notebook. proof: an expression of Python that is true; "" for none."""

    goal: int
    q: str
    a: str
    proof: str = ""


def read_bank(path: Path = BANK) -> dict[str, list[Question]]:
    """notebook -> its questions. Raises CourseError for a file of another form."""
    remedy = "correct it as its first lines say."
    bank = read_yaml(path, remedy)
    found = {}
    for stem, entries in bank.items():
        try:
            found[stem] = [Question(**entry) for entry in entries]
        except TypeError as error:
            raise CourseError(
                f"{path}: a question of {stem} has other keys than goal, q, a, proof; {remedy}"
            ) from error
    return found


def check_bank(bank: dict[str, list[Question]], known: list[Outline]) -> None:
    """Raise CourseError for the first notebook without ten questions, and question without an answer or a goal."""
    for plan in known:
        questions = bank.get(plan.stem, [])
        need(len(questions) >= 10, f"{plan.stem} has {len(questions)} questions in {BANK.name}; write at least 10")
        asked = [question.q for question in questions]
        for question in questions:
            need(question.q and question.a, f"{plan.stem}: {question.q or question.a!r} lacks a question or an answer")
            need(asked.count(question.q) == 1, f"{plan.stem}: {question.q!r} is asked twice")
            need(
                1 <= question.goal <= len(plan.goals),
                f"{plan.stem}: {question.q!r} tests goal {question.goal}, of {len(plan.goals)}",
            )


def bank_pages(bank: dict[str, list[Question]], known: list[Outline]) -> dict[str, str]:
    """The pages questions.md and answers.md, whose numbers belong together. Raises CourseError as `check_bank` does."""
    check_bank(bank, known)
    made = "made by `vt-course pages` from `vt_course/publish/teaching/questions.yaml`; do not edit it."
    questions = "# Questions\n\nFor quizzes and examinations, beyond the questionnaires of the notebooks.\n"
    questions += f"This page is {made}\n"
    questions += "The answers have [a page of their own](answers.md).\n"
    answers = f"# Answers\n\nTo the [bank of questions](questions.md). This page is {made}\n"
    for plan in known:
        questions += f"\n## {plan.title}\n"
        answers += f"\n## {plan.title}\n\n"
        number = 0
        of_goal = {goal: [q for q in bank[plan.stem] if q.goal == goal] for goal in range(1, len(plan.goals) + 1)}
        for goal, asked in of_goal.items():
            if asked:
                questions += f"\n*Goal {goal}: {plan.goals[goal - 1].rstrip(';.')}.*\n\n"
            for question in asked:
                number += 1
                name = f"{plan.stem[:2]}-{number}"
                questions += f"- **{name}** {question.q}\n"
                answers += f"- **{name}** {question.a}\n"
    return {"questions.md": questions, "answers.md": answers}
