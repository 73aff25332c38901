"""Running the claims, and the ledger that is kept of them: results/claims.json."""

import json
import math
import re
import textwrap
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from vt_course import CourseError, closest, need, repo_root
from vt_course.claims.ledger import claims as ledger
from vt_course.claims.ledger import cost
from vt_course.claims.ledger.claims import DIFFERS, EXACT, NOT_RUN, SCALED, UNDECIDED, UNVERIFIED, WITHIN, Claim
from vt_course.claims.ledger.running import CHECKS, NotRun, Refuted
from vt_course.files import atomic_write, read_json
from vt_course.training.experiments import verdicts

SCHEMA = 1
OF_VERDICT = {
    verdicts.AGREES: SCALED,
    verdicts.DISAGREES: DIFFERS,
    verdicts.UNDECIDED: UNDECIDED,
    verdicts.NOT_RUN: NOT_RUN,
}


@dataclass(frozen=True)
class Outcome:
    """What a claim's check gave. `problem`: a sentence where there is no value, because the check refuted the claim."""

    claim: Claim
    status: str
    value: object = None
    problem: str = ""
    seconds: float = 0.0


def as_printed(value: float, stated: float) -> bool:
    """Whether a number rounds to the digits in which another one is stated."""
    digits = -Decimal(repr(stated)).as_tuple().exponent if isinstance(stated, float) else 0
    return abs(value - stated) <= 0.5 * 10.0**-digits + 1e-9


def agreement(value, stated, tolerance: float, printed: bool = False) -> str:
    """exact, within tolerance or differs. Counts and texts agree only if they are equal, lists in each entry.

    printed: a number is exact if it rounds to the digits in which the stated one is printed.
    """
    if isinstance(stated, list):
        if not isinstance(value, list) or len(value) != len(stated):
            return DIFFERS
        each = {agreement(v, s, tolerance, printed) for v, s in zip(value, stated)}
        return DIFFERS if DIFFERS in each else WITHIN if WITHIN in each else EXACT
    counts = type(value) in (bool, int, str) and type(value) is type(stated)
    if counts and value == stated:
        return EXACT
    if type(stated) in (bool, str) or type(value) not in (int, float) or math.isnan(value):
        return DIFFERS
    if type(value) is float and (as_printed(value, stated) if printed else math.isclose(value, stated, abs_tol=1e-9)):
        return EXACT
    return WITHIN if abs(value - stated) <= tolerance * abs(stated) else DIFFERS


def judged(claim: Claim, value) -> str:
    """The status of a claim whose check gave `value`."""
    if claim.kind == "trend":
        return OF_VERDICT[value]
    if claim.kind == "accuracy":
        return NOT_RUN
    found = agreement(value, claim.stated, claim.tolerance, CHECKS[claim.check].__module__ == cost.__name__)
    if claim.source == "course" and found == WITHIN:  # machines differ in the last digit of what we measured ourselves
        return EXACT
    return UNVERIFIED if claim.source in ("secondary", "memory") and found != DIFFERS else found


def run_claim(claim: Claim) -> Outcome:
    """Run the check of a claim. Whatever it raises makes the claim differ, except a `CourseError`, which passes."""
    start = time.perf_counter()
    value, problem = None, ""
    try:
        value = CHECKS[claim.check](**claim.arguments)
        status = judged(claim, value)
    except CourseError:
        raise
    except NotRun as error:
        status, problem = NOT_RUN, str(error)
    except Refuted as error:
        status, problem = DIFFERS, str(error)
    except Exception as error:  # changed code may raise anything
        status, problem = DIFFERS, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    return Outcome(claim, status, value, problem, time.perf_counter() - start)


def recorded_file() -> Path:
    return repo_root() / "results" / "claims.json"


def read_recorded() -> dict[str, dict]:
    """id -> entry of results/claims.json; empty where there is no such file."""
    path = recorded_file()
    if not path.is_file():
        return {}
    entries = read_json(path, "write it anew with `vt-course claims --run --out results/claims.json`", dict)
    return {entry["id"]: entry for entry in entries.get("claims", [])}


def entry(claim: Claim, status: str, value, problem: str = "") -> dict:
    """A claim as it stands in results/claims.json and as --json prints it."""
    return {
        "id": claim.id,
        "paper": claim.paper,
        "version": claim.version,
        "where": claim.where,
        "source": claim.source,
        "kind": claim.kind,
        "claim": claim.claim,
        "stated": claim.stated,
        "unit": claim.unit,
        "found": float(f"{value:.6g}") if isinstance(value, float) else value,
        "status": status,
        "tolerance": claim.tolerance,
        "check": claim.check,
        "arguments": claim.arguments,
        "explanation": claim.why or problem,
        "teaches": claim.teaches,
        "generated": claim.generated,
    }


def as_recorded(told: list[Claim]) -> list[dict]:
    """What the recorded ledger found for all claims, `told`. Raises `CourseError` where the two are not in step: for
    a claim that was never run, or that is recorded with another text, number or status than it has now.
    """
    recorded = read_recorded()
    need(recorded, f"there is no {recorded_file()}: restore it, or install the course again")
    remedy = "run `vt-course claims --run --out results/claims.json`"
    gone = [id for id in recorded if id not in {claim.id for claim in told}]
    need(not gone, f"results/claims.json has a claim {gone[:1]} that no file has; {remedy}")
    found = []
    for claim in told:
        old = recorded.get(claim.id)
        need(old, f"the claim {claim.id} is not in results/claims.json; {remedy}")
        now = entry(claim, claim.status or old["status"], old["found"], old["explanation"])
        changed = next((key for key in now if now[key] != old.get(key)), None)
        need(not changed, f"the claim {claim.id} is recorded with another {changed} in results/claims.json; {remedy}")
        found.append(old)
    return found


def select(entries: list[dict], **filters: str | None) -> list[dict]:
    """The entries whose paper, kind and so on are those asked for. Raises `CourseError` for a value that none has."""
    for name, asked in filters.items():
        values = {entry[name] for entry in entries}
        if asked and asked not in values:
            raise CourseError(f"no claim has the {name} {asked!r}; {closest(asked, sorted(filter(None, values)))}.")
        entries = [entry for entry in entries if not asked or entry[name] == asked]
    return entries


def stale(outcome: Outcome, recorded: dict[str, dict]) -> str:
    """Why the status in the files is not what the run gave: one sentence, or "" if it is."""
    claim = outcome.claim
    old = recorded.get(claim.id, {}).get("status")
    gave = f"the run gives {outcome.status!r}" + (f" ({outcome.problem})" if outcome.problem else "")
    if claim.status and claim.status != outcome.status:
        return f"{claim.id}: its file says {claim.status!r}, {gave}; found {outcome.value!r}, stated {claim.stated!r}."
    if old and old != outcome.status:
        return f"{claim.id}: results/claims.json says {old!r}, {gave}."
    if outcome.status == DIFFERS and not claim.why:
        return f"{claim.id}: it differs, and no file explains why ({outcome.problem or outcome.value})."
    return ""


def counts(entries: list[dict]) -> dict[str, int]:
    """status -> number, in the order of `STATUSES`."""
    number = Counter(each["status"] for each in entries)
    return {status: number[status] for status in ledger.STATUSES}


def status_line(entries: list[dict]) -> str:
    """README's line, for instance "480 claims: 300 exact, ..."."""
    told = ", ".join(f"{n} {status.replace('differs', 'differ')}" for status, n in counts(entries).items() if n)
    return f"{len(entries)} claims: {told}"


def write_status_line(path: Path, entries: list[dict]) -> None:
    """Put the status line into the paragraph of README (`path`) that has one, and fill its lines again."""
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    for i, text in enumerate(paragraphs):
        words = " ".join(text.split())
        if (new := re.sub(r"\d+ claims: [^.]*", status_line(entries), words)) != words:
            paragraphs[i] = textwrap.fill(new, 120, break_long_words=False, break_on_hyphens=False)
    atomic_write(path, "\n\n".join(paragraphs).encode())


def write_ledger(told: list[Claim], outcomes: list[Outcome], path: Path) -> None:
    """Write the ledger of all claims, `told`: what `outcomes` found, and what was recorded of the others.

    docs/researchers.md explains its entries. Raises `CourseError` if one of the others was never recorded."""
    found = {each.claim.id: entry(each.claim, each.status, each.value, each.problem) for each in outcomes}
    found = read_recorded() | found
    ids = [claim.id for claim in told]
    lacking = [id for id in ids if id not in found]
    need(not lacking, f"{len(lacking)} claims were never run, the first is {lacking[:1]}: leave out the filters")
    entries = [found[id] for id in ids]
    whole = {"schema": SCHEMA, "counts": counts(entries), "claims": entries}
    atomic_write(path, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())
