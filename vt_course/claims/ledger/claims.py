"""The claims: those in the files, and those that follow from the zoo, the recordings and the experiments.

Each paper has a file, `PAPER.yaml`, beside this module. A number that the course states elsewhere is not repeated
there: parameters, costs and accuracies come from `vt_course.models.zoo`, parity from tests/golden, trends from
experiments.yaml.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from vt_course import CourseError, closest, need, repo_root
from vt_course.claims.ledger import cost, effects, procedure, recorded, running, structure  # noqa: F401 (checks)
from vt_course.claims.ledger.unrun import not_run
from vt_course.files import read_yaml
from vt_course.models.zoo import ZOO
from vt_course.training.experiments import results, rows, verdicts

HERE = Path(__file__).parent
PAPERS = ("swin", "video_swin", "mvit", "timesformer", "uniformer")
KINDS = ("structure", "parameters", "cost", "parity", "procedure", "deviation", "literature", "trend", "accuracy")
EXACT, WITHIN, SCALED, DIFFERS = "exact", "within tolerance", "scaled down", "differs"
UNDECIDED, NOT_RUN, UNVERIFIED = "undecided", "not run", "unverified source"
STATUSES = (EXACT, WITHIN, SCALED, DIFFERS, UNDECIDED, NOT_RUN, UNVERIFIED)
# "secondary" and "memory" never count as verified. "course": what we measured before and nobody else states.
SOURCES = ("paper", "repository", "secondary", "memory", "course")
GENERATED = 0.01  # tolerance of parameters and costs that the zoo states: 1 %


@dataclass(frozen=True)
class Claim:
    """One statement about a paper, and the function that tries it. docs/researchers.md explains each field."""

    id: str
    paper: str
    version: str
    where: str  # section, table or equation; or repository and file
    claim: str
    kind: str
    check: str
    stated: object = True
    unit: str = ""
    arguments: dict = field(default_factory=dict)
    tolerance: float = 0.0  # relative, for numbers; a number that rounds to the digits stated is exact in any case
    status: str | None = EXACT  # None: exact or within tolerance, whichever the recorded ledger says
    why: str = ""  # where it differs: the explanation
    teaches: str = ""  # "04, section 7" of the notebooks
    source: str = "paper"
    generated: bool = False


KEYS = ("id", "where", "claim", "check", "stated", "unit", "with", "tolerance", "status", "why", "teaches", "source")
NEEDED = ("id", "where", "claim", "check", "teaches")
HEAD = ("paper", "version", "family", "recordings", "teaches", "differs")


def read_claims() -> list[Claim]:
    """All claims: those of the files, then those that follow. Raises `CourseError` for a claim without a check, a check
    without a claim, a dead link, a tag of a notebook that names no claim, a section without a tag, and for whatever
    else is wrong with a file; the message names file and claim.
    """
    asked = rows.read_rows() if rows.rows_file().is_file() else []
    claims = [claim for paper in PAPERS for claim in read_paper(HERE / f"{paper}.yaml", asked)]
    ids = [claim.id for claim in claims]
    if twice := next((id for id in ids if ids.count(id) > 1), None):
        raise CourseError(f"two claims have the id {twice!r}: rename one")
    used = {claim.check for claim in claims}
    check_tags(claims)
    idle = sorted(set(running.CHECKS) - used)
    need(not idle, f"no claim uses the check {', '.join(idle)}: write one, or remove the function")
    return claims


def read_paper(path: Path, asked: list[rows.Row]) -> list[Claim]:
    """The claims of one file, and those of its paper that follow. `asked`: the rows of experiments.yaml."""
    told = read_yaml(path, "correct it")
    need(isinstance(told, dict), f"{path.name} must map paper, version and kinds of claims")
    for key in told:
        need(key in (*HEAD, *KINDS), f"{path.name}: unknown key {key!r}; {closest(key, (*HEAD, *KINDS))}")
    claims = []
    for kind in KINDS:
        for number, entry in enumerate(told.get(kind) or [], 1):
            claims.append(read_claim(entry, kind, told, f"{path.name}, {kind} {number}"))
    claims += follow_from_zoo(told) + follow_from_recordings(told) + follow_from_experiments(told, asked)
    explained, ids = told.get("differs") or {}, {claim.id for claim in claims if claim.generated}
    for id in explained:
        need(id in ids, f"{path.name}, differs: there is no claim {id!r}; {closest(id, ids)}")
    for claim in claims:
        check_link(claim.teaches, f"{path.name}, claim {claim.id}")
    return claims


def read_claim(entry, kind: str, head: dict, place: str) -> Claim:
    need(isinstance(entry, dict), f"{place}: it must have the keys {', '.join(NEEDED)}")
    place = f"{place}, {entry.get('id', '')!r:.60}"
    for key in entry:
        need(key in KEYS, f"{place}: unknown key {key!r}; {closest(key, KEYS)}")
    missing = [key for key in NEEDED if not isinstance(entry.get(key), str) or not entry[key].strip()]
    need(missing != ["check"], f"{place}: it has no check, so nothing tries it; name a function")
    need(not missing, f"{place}: it lacks {', '.join(missing)}")
    for key, known, usual in (
        ("check", running.CHECKS, None),
        ("status", STATUSES, EXACT),
        ("source", SOURCES, "paper"),
    ):
        value = entry.get(key, usual)
        need(value in known, f"{place}: unknown {key} {value!r}; {closest(str(value), known)}")
    need(re.fullmatch(r"[a-z0-9]+([-_.][a-z0-9]+)*", entry["id"]), f"{place}: id must be small letters and hyphens")
    tolerance = entry.get("tolerance", 0)
    need(
        type(tolerance) in (int, float) and 0 <= tolerance < 1, f"{place}: tolerance must be a share, for instance 0.01"
    )
    need(isinstance(entry.get("with", {}), dict), f"{place}: with must map the arguments of the check")
    need(entry.get("status") != DIFFERS or entry.get("why"), f"{place}: it differs, so it needs an explanation, `why`")
    given = {key: value for key, value in entry.items() if key not in ("with", "status")}
    same = dict(paper=head["paper"], version=head["version"], kind=kind, arguments=entry.get("with", {}))
    return Claim(**given, **same, status=entry.get("status", None if tolerance else EXACT))


# ---------------------------------------------------------------- claims that follow from what the course has


def grade(source: str) -> str:
    """The grade of a source as the zoo writes it: a table of other authors, a file of a repository, or the paper."""
    return "secondary" if source.startswith("secondary") else "repository" if "/" in source.split()[0] else "paper"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def following(head: dict, kind: str, **told) -> Claim:
    """A claim of a paper that stands in no file. `head`: what the paper's file says of all its claims."""
    same = dict(paper=head["paper"], version=head["version"], teaches=head["teaches"][kind])
    return Claim(kind=kind, status=None, generated=True, **same, **told)


QUANTITIES = {"params M": ("parameters", "parameters", "M"), "GMACs": ("gmacs", "cost", "GMACs of one view")}


def follow_from_zoo(head: dict) -> list[Claim]:
    """Parameters, costs and accuracies of every variant of the paper's family that the zoo states."""
    claims, explained = [], head.get("differs") or {}
    for name, variant in ZOO.items():
        if variant.family.__name__ != head["family"]:
            continue
        for quantity, value, source in variant.stated:
            same = dict(where=source, source=grade(source), stated=value, arguments={"model": name})
            if quantity in QUANTITIES:
                check, kind, unit = QUANTITIES[quantity]
                id = f"{name}-{check}"
                told = dict(claim=f"{name} has {value:g} {unit}.", tolerance=GENERATED, why=explained.get(id, ""))
            else:
                check, kind, unit, id = "views_of_the_protocol", "accuracy", "%", f"{name}-{slug(quantity)}"
                told = dict(claim=f"{name} reaches {value:g} % ({quantity}).", why=not_run(name, quantity))
            claims.append(following(head, kind, id=id, check=check, unit=unit, **same, **told))
    return claims


def follow_from_recordings(head: dict) -> list[Claim]:
    """Parity with each recorded case of the official code whose name fits the pattern `recordings` of the file."""
    cases = sorted(path.stem for path in (repo_root() / recorded.GOLDEN).glob("*.json"))
    return [
        following(
            head,
            "parity",
            id=f"recording-{case}",
            where=f"{recorded.GOLDEN}/{case}.json",
            claim="Our model gives what the official code gave, in float32 and float64, at each stage.",
            check="equals_the_recording",
            arguments={"case": case},
            source="repository",
        )
        for case in cases
        if re.match(head["recordings"], case)
    ]


def follow_from_experiments(head: dict, asked: list[rows.Row]) -> list[Claim]:
    """The signs of differences that the paper states and that a row of experiments.yaml asks for."""
    claims = []
    for row in asked:
        told = row.told
        lines = verdicts.comparisons(row, results.read_result(row.id)) if told["paper"] == head["paper"] else ()
        for line in lines:
            if verdicts.sign(line["claimed"]) is None:
                continue
            numbers = ", ".join(f"{value:+g} ({quantity})" for quantity, value in line["claimed"].items())
            claims.append(
                following(
                    head,
                    "trend",
                    id=f"trend-{row.id}-{slug(line['variant'])}-against-{slug(line['against'])}",
                    where=told["table"],
                    claim=f"{line['variant']} against {line['against']}: {numbers}.",
                    check="trend",
                    stated=verdicts.AGREES,
                    why=f"{told['question']} Here {verdicts.told_difference(row, line)}.",
                    arguments={"row": row.id, "variant": line["variant"], "against": line["against"]},
                )
            )
    return claims


# ---------------------------------------------------------------- links


@lru_cache
def sections() -> dict[str, set[int]] | None:
    """The numbers of the sections of each notebook, by its number; None in a copy without the notebooks' sources."""
    found = {}
    for notebook, section in tagged() or ():
        if section:
            found.setdefault(notebook, set()).add(section)
    return found or None


@lru_cache
def tagged() -> dict[tuple[str, int], set[str]] | None:
    """(number of a notebook, number of a section) -> the claims that cells of it are tagged with, `claim:ID`. What
    stands before the first section has the number 0. None in a copy without the notebooks' sources."""
    found = {}
    for path in sorted((repo_root() / "notebooks" / "src").glob("[0-9][0-9]_*.py")):
        section = 0
        for cell in re.split(r"^(?=# %%)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if heading := re.search(r"^# ## (\d+) · ", cell, re.MULTILINE):
                section = int(heading[1])
            tags = re.findall(r'"claim:([\w.-]+)"', cell.partition("\n")[0])
            found.setdefault((path.name[:2], section), set()).update(tags)
    return found or None


def check_tags(claims: list[Claim]) -> None:
    """Raise `CourseError` if a tag names no claim, or one that another notebook teaches, or if a section that teaches
    claims of the files carries no tag, in a notebook that has tags."""
    teaches, found = {claim.id: claim.teaches for claim in claims}, tagged() or {}
    begun = {notebook for (notebook, _), ids in found.items() if ids}
    for (notebook, section), ids in found.items():
        for id in sorted(ids):
            place = f"notebook {notebook}, section {section}: the tag claim:{id}"
            need(id in teaches, f"{place} names no claim; {closest(id, teaches)}")
            need(teaches[id][:2] == notebook, f"{place} names a claim that {teaches[id]} teaches")
    for claim in claims:
        notebook, section = claim.teaches[:2], int(claim.teaches.rpartition(" ")[2])
        if not claim.generated and notebook in begun:
            need(
                found[notebook, section],
                f"{claim.teaches} teaches the claim {claim.id}, but no cell of it has a tag such as claim:{claim.id}",
            )


def check_link(teaches: str, place: str) -> None:
    """Raise `CourseError` unless `teaches` is a section of a notebook that exists."""
    link = re.fullmatch(r"(\d\d), section (\d+)", teaches)
    need(link, f"{place}: teaches must name a section, such as `04, section 7`, not {teaches!r}")
    known = sections()
    need(known is None or int(link[2]) in known.get(link[1], ()), f"{place}: dead link, there is no {teaches}")
