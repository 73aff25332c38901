"""The mutation run: which claims notice the faults of `faults.py`. A ledger that no fault turns red proves nothing.

A mutant that turns more than a third of all claims red counts for none of them: what breaks everything proves nothing
about a single claim.
"""

import fnmatch
import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from vt_course.claims.ledger import run, running
from vt_course.claims.ledger.claims import DIFFERS, NOT_RUN, Claim
from vt_course.claims.ledger.faults import MUTANTS, Changes, Mutant
from vt_course.files import atomic_write, read_json
from vt_course.models.zoo import ZOO

FAMILY = {
    "Swin": "SwinTransformer",
    "Video Swin": "SwinTransformer3D",
    "MViT": "MViT",
    "TimeSformer": "TimeSformer",
    "UniFormer": "UniFormer",
}
KILLABLE = ("structure", "cost", "parameters", "parity")  # of these at least 95 % must be killed
SHARE = 0.95
COUNTS = (
    "gmacs",
    "parameters",
    "gmacs_with_norms",
    "times_as_many",
    "mvit_ablation",
    "gmacs_of_attention",
    "quadratic",
    "gmacs_by_padding",
)
DEAR = (
    "recording-mvit_b_16x4",
    "recording-timesformer_divided_8x224",
    "recording-uniformer_s_16",
    "recording-video_swin_tiny_k400",
    "recording-swin_tiny_224",
)


def named(mutant: Mutant, id: str) -> bool:
    return any(fnmatch.fnmatchcase(id, pattern) for pattern in mutant.kills)


def families(claim: Claim) -> set[str]:
    """The papers whose models a claim runs: those of the variants that it names, else its own."""
    models = re.findall(r"'model': '(\w+)'", str(claim.arguments))
    of = {family: paper for paper, family in FAMILY.items()}
    return {of[ZOO[model].family.__name__] for model in models} or {claim.paper}


def concerned(mutant: Mutant, claims: list[Claim]) -> list[Claim]:
    """The claims that are run under a mutant: all that its models can touch.

    Large recordings and effects of deviations only where they are named, and counts only if the mutant names one,
    because they take long.
    """
    counts = any(named(mutant, claim.id) for claim in claims if claim.check in COUNTS)
    return [
        claim
        for claim in claims
        if claim.kind not in ("trend", "accuracy")
        and (claim.kind != "procedure" or "model" in claim.arguments)  # a fault of a model touches no other procedure
        and families(claim) & set(mutant.papers)
        and (counts or claim.check not in COUNTS)
        and (named(mutant, claim.id) or claim.id not in DEAR and not claim.check.startswith("effect"))
    ]


def red(outcome: run.Outcome, old: dict) -> bool:
    """Whether the status is not the recorded one. A claim that differs anyway must differ by another number."""
    if outcome.status != old["status"]:
        return True
    found = run.entry(outcome.claim, outcome.status, outcome.value)["found"]
    return outcome.status == DIFFERS and found != old["found"]


def run_mutant(mutant: Mutant, claims: list[Claim], recorded: dict[str, dict]) -> dict:
    """dict(mutant, of, ran, killed, survived, counts): ids of the claims that turned red, and of those that were named
    and did not. counts: whether it killed no more than a third of all claims. of: see `digest`."""
    running.forget()
    with Changes() as changes:
        mutant.apply(changes)
        outcomes = [run.run_claim(claim) for claim in concerned(mutant, claims)]
    running.forget()
    killed = [each.claim.id for each in outcomes if red(each, recorded[each.claim.id])]
    survived = [claim.id for claim in claims if named(mutant, claim.id) and claim.id not in killed]
    same = dict(mutant=mutant.name, of=digest(mutant, claims), ran=len(outcomes))
    return same | dict(killed=killed, survived=survived, counts=3 * len(killed) <= len(claims))


def run_mutants(
    names: list[str], claims: list[Claim], recorded: dict[str, dict], known: dict[str, dict] = {}
) -> Iterator[dict]:
    """`run_mutant` for each name, warnings of stretched positions left out. `known` rows are not made again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            yield known.get(name) or run_mutant(MUTANTS[name], claims, recorded)


def digest(mutant: Mutant, claims: list[Claim]) -> str:
    """What a row of a mutant stands for: the claims that it names, and those of `KILLABLE` that it can turn red."""
    told = [[c.id, c.check, c.arguments, c.stated] for c in concerned(mutant, claims) if c.kind in KILLABLE]
    return hashlib.sha256(json.dumps([mutant.kills, told]).encode()).hexdigest()[:16]


def read_rows(path: Path, claims: list[Claim]) -> dict[str, dict]:
    """name -> row of a file that `write_rows` wrote, without the rows of claims that have changed since."""
    if not path.is_file():
        return {}
    rows = read_json(path, "remove it, and run the command again", dict)["mutants"]
    return {
        row["mutant"]: row
        for row in rows
        if row["mutant"] in MUTANTS and row["of"] == digest(MUTANTS[row["mutant"]], claims)
    }


def write_rows(path: Path, claims: list[Claim], rows: list[dict]) -> None:
    """Write what each mutant killed, in the order of `MUTANTS`, and what none did."""
    order = list(MUTANTS)
    rows = sorted(rows, key=lambda row: order.index(row["mutant"]))
    whole = {"never_killed": never_killed(claims, rows), "share": round(share_killed(claims, rows), 4), "mutants": rows}
    atomic_write(path, (json.dumps(whole, indent=1) + "\n").encode())


def sample(names: list[str], number: int, turn: int) -> list[str]:
    """`number` of the mutants `names`; the next turn takes the next ones, so that all take their turn."""
    return list(dict.fromkeys(names[(turn * number + i) % len(names)] for i in range(number)))


def killable(claims: list[Claim]) -> list[Claim]:
    """Those that a fault must turn red: all of `KILLABLE` but what is not run."""
    return [claim for claim in claims if claim.kind in KILLABLE and claim.status != NOT_RUN]


def share_killed(claims: list[Claim], rows: list[dict]) -> float:
    return 1 - len(never_killed(claims, rows)) / max(len(killable(claims)), 1)


def never_killed(claims: list[Claim], rows: list[dict]) -> list[str]:
    """The claims of `KILLABLE` that no mutant that counts has turned red."""
    killed = {id for row in rows if row["counts"] for id in row["killed"]}
    return [claim.id for claim in killable(claims) if claim.id not in killed]
