"""Plans of lessons of 45 and of 90 minutes for each notebook, by rules, from what the notebook holds.

A lesson opens with the goals and ends with the summary. In between stand one exercise (45 minutes) or several (90) that
students solve in class, the most important ones that fit, and sections. Sections of the core come first, and among them
those with important exercises and with figures. A section takes as long as its slides need: two minutes for a figure, a
question or a formula, one for a table or, in the long lesson, for code. What does not fit is read at home.
"""

from dataclasses import dataclass

from vt_course.publish.teaching.outline import Exercise, Outline, Part

OPENING, CLOSING = 3, 4  # minutes
IN_CLASS = {45: (1, 15), 90: (3, 35)}  # minutes of a lesson: (number of exercises in class, their minutes)
LONGEST = {45: 10, 90: 18}  # minutes on one section
NEEDS = {"figure": 2, "question": 2, "formula": 2, "table": 1, "code": 1}


@dataclass(frozen=True)
class Lesson:
    """rows: (minutes, what) in order; they make `minutes`. at_home: exercises; left_out: numbers of sections."""

    minutes: int
    rows: list[tuple[int, str]]
    at_home: list[Exercise]
    left_out: list[str]


def lesson(plan: Outline, minutes: int) -> Lesson:
    """The plan of one lesson on a notebook."""
    solved = in_class(plan.exercises, *IN_CLASS[minutes])
    left = minutes - OPENING - CLOSING - sum(exercise.minutes for exercise in solved)
    shown = sections(plan, solved, left, minutes)
    rows = [(OPENING, f"Opening: what the class will be able to do ({len(plan.goals)} goals)")]
    for part in plan.parts:
        if part.number in shown:
            rows.append((shown[part.number], f"Section {part.number}, *{part.title}*{of_slides(part, minutes)}"))
        rows += [
            (exercise.minutes, f"**In class: exercise {exercise.number}**, {exercise.title}")
            for exercise in solved
            if exercise.section == part.number
        ]
    if spare := minutes - CLOSING - sum(spent for spent, _ in rows):
        rows.append((spare, "Questions of the class"))
    rows.append((CLOSING, "Closing: summary, one question of the questionnaire"))
    at_home = [exercise for exercise in plan.exercises if exercise not in solved]
    return Lesson(minutes, rows, at_home, [part.number for part in plan.parts if part.number not in shown])


def in_class(exercises: list[Exercise], most: int, minutes: int) -> list[Exercise]:
    """The most important exercises that fit, in the order of the notebook; of equally important ones the quick."""
    chosen: list[Exercise] = []
    for exercise in sorted(exercises, key=lambda e: (-e.importance, e.minutes)):
        if len(chosen) < most and sum(e.minutes for e in chosen) + exercise.minutes <= minutes:
            chosen.append(exercise)
    return [exercise for exercise in exercises if exercise in chosen]


def need(part: Part, minutes: int) -> int:
    """The minutes that the slides of a section need in a lesson of so many minutes."""
    needs = sum(NEEDS.get(slide.kind, 0) for slide in part.slides if minutes > 45 or slide.kind != "code")
    return min(max(needs, 2), LONGEST[minutes])


def sections(plan: Outline, solved: list[Exercise], left: int, minutes: int) -> dict[str, int]:
    """number -> minutes of the sections of a lesson, at most `left`. Those of exercises in class come first."""
    worth = {part.number: 0 for part in plan.parts}
    for exercise in plan.exercises:
        worth[exercise.section] = max(worth[exercise.section], exercise.importance)
    needed = {exercise.section for exercise in solved}

    def rank(part: Part):
        figures = sum(slide.kind == "figure" for slide in part.slides)
        return part.number not in needed, not part.core, -worth[part.number] - figures, int(part.number)

    shown, used = {}, 0
    for part in sorted(plan.parts, key=rank):
        takes = need(part, minutes)
        if used + takes <= left:
            shown[part.number] = takes
            used += takes
    for number in sorted(shown, key=lambda n: -shown[n])[: left - used]:  # a minute more for the long ones
        shown[number] += 1
    return shown


def of_slides(part: Part, minutes: int) -> str:
    """What of a section is shown: ": 2 figures, 1 question"."""
    kinds = [kind for kind in NEEDS if minutes > 45 or kind != "code"]
    counts = {kind: sum(slide.kind == kind for slide in part.slides) for kind in kinds}
    names = {kind: (kind, f"{kind}s") for kind in kinds} | {"code": ("slide of code", "slides of code")}
    words = [f"{n} {names[kind][n > 1]}" for kind, n in counts.items() if n]
    return ": " + ", ".join(words) if words else ""


def plans_page(outlines: list[Outline]) -> str:
    """The page of all plans, in Markdown."""
    text = (
        "# Plans of lessons\n\n"
        "This page is made from the notebooks by `vt-course pages`; do not edit it. Minutes are for a class that has\n"
        "not read the notebook. Sections and exercises that a lesson leaves out are homework.\n"
    )
    for plan in outlines:
        text += f"\n## {plan.title}\n"
        for minutes in IN_CLASS:
            made = lesson(plan, minutes)
            text += f"\n### {minutes} minutes, notebook {plan.stem[:2]}\n\n| minutes | what |\n|---:|---|\n"
            text += "".join(f"| {spent} | {what} |\n" for spent, what in made.rows)
            if made.at_home:
                home = ", ".join(f"{e.number} ({e.minutes} min)" for e in made.at_home)
                text += f"\nExercises at home: {home}, together {hours(sum(e.minutes for e in made.at_home))}.\n"
            if made.left_out:
                text += f"\nSections to read at home: {', '.join(made.left_out)}.\n"
    return text


def hours(minutes: int) -> str:
    return f"{minutes} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
