"""The mutation run: which claims notice the faults of `faults.py`. A ledger that no fault turns red proves nothing.

A mutant that turns more than a third of all claims red counts for none of them: what breaks everything proves nothing
about a single claim.
"""

import fnmatch
import re
import warnings
from collections.abc import Iterator

from vt_course.claims.ledger import run, running
from vt_course.claims.ledger.claims import DIFFERS, Claim
from vt_course.claims.ledger.faults import MUTANTS, Changes, Mutant
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
    """dict(mutant, ran, killed, survived, counts): ids of the claims that turned red, and of those that were named and
    did not. counts: whether it killed no more than a third of all claims."""
    running.forget()
    with Changes() as changes:
        mutant.apply(changes)
        outcomes = [run.run_claim(claim) for claim in concerned(mutant, claims)]
    running.forget()
    killed = [each.claim.id for each in outcomes if red(each, recorded[each.claim.id])]
    survived = [claim.id for claim in claims if named(mutant, claim.id) and claim.id not in killed]
    return dict(
        mutant=mutant.name, ran=len(outcomes), killed=killed, survived=survived, counts=3 * len(killed) <= len(claims)
    )


def run_mutants(names: list[str], claims: list[Claim], recorded: dict[str, dict]) -> Iterator[dict]:
    """`run_mutant` for each name, warnings of stretched positions left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            yield run_mutant(MUTANTS[name], claims, recorded)


def sample(names: list[str], number: int, turn: int) -> list[str]:
    """`number` of the mutants `names`; the next turn takes the next ones, so that all take their turn."""
    return list(dict.fromkeys(names[(turn * number + i) % len(names)] for i in range(number)))


def never_killed(claims: list[Claim], rows: list[dict]) -> list[str]:
    """The claims of `KILLABLE` that no mutant that counts has turned red."""
    killed = {id for row in rows if row["counts"] for id in row["killed"]}
    return [claim.id for claim in claims if claim.kind in KILLABLE and claim.id not in killed]
