"""The verb for the claims of the papers."""

import sys
from datetime import date
from pathlib import Path

from vt_course import closest, need, repo_root
from vt_course.cli.common import choice, option, print_json, print_table, verb, whole

COLUMNS = {"id": "claim", "kind": "kind", "where": "where", "stated": "stated", "found": "found", "status": "status"}
FILTERS = ("kind", "paper", "status")


@verb(
    "claims",
    "What the five papers claim, and what came out here; --run tries it all again.",
    "vt-course claims --paper Swin --kind structure",
    option(
        "--kind", help="only structure, parameters, cost, parity, procedure, deviation, literature, trend or accuracy"
    ),
    option("--paper", help="only those of Swin, 'Video Swin', MViT, TimeSformer or UniFormer"),
    option(
        "--status",
        help="only exact, 'within tolerance', 'scaled down', differs, undecided, 'not run' or 'unverified source'",
    ),
    choice(
        option("--run", action="store_true", help="run the checks (minutes); exit 1 if a status is not what it was"),
        option("--explain", metavar="ID", help="all that is known of one claim"),
        option(
            "--mutants", action="store_true", help="put faults into the models; exit 1 if a named claim stays as it was"
        ),
        required=False,
    ),
    option(
        "--out",
        type=Path,
        help="with --run: write the ledger, for instance to results/claims.json; others stay as recorded. With "
        "--mutants: write what each killed, after each of them; what the file holds is not made again",
    ),
    option("--sample", type=whole(1), help="with --mutants: only so many, others on each day (default: all)"),
)
def claims(args) -> int:
    from vt_course.claims.ledger import run
    from vt_course.claims.ledger.claims import read_claims

    need(args.run or args.mutants or not args.out, "--out needs --run or --mutants")
    need(args.mutants or not args.sample, "--sample needs --mutants")
    need(
        not (args.mutants and (args.kind or args.status)), "--mutants takes --paper only: leave out --kind and --status"
    )
    if args.mutants:
        return mutants(args)
    if args.run:
        return run_again(args)
    entries = run.as_recorded(read_claims())
    if args.explain:
        return explain(args, {entry["id"]: entry for entry in entries})
    chosen = wanted(args, entries)
    if args.json:
        print_json(chosen)
    else:
        print_table(
            [{**each, "stated": short(each["stated"]), "found": short(each["found"])} for each in chosen], COLUMNS
        )
        print(run.status_line(chosen))
    return 0


def short(value) -> str | float | None:
    if isinstance(value, bool):
        return "yes" if value else "no"  # as notebook 10 writes it
    return value if type(value) in (float, int) or value is None else str(value)[:40]


def wanted(args, entries: list[dict]) -> list[dict]:
    """The entries that the filters leave. Raises `CourseError` for a filter that nothing has."""
    from vt_course.claims.ledger.run import select

    return select(entries, **{name: getattr(args, name) for name in FILTERS})


def explain(args, entries: dict[str, dict]) -> int:
    need(args.explain in entries, f"there is no claim {args.explain!r}; {closest(args.explain, entries)}")
    entry = entries[args.explain]
    if args.json:
        print_json(entry)
    else:
        for key, value in entry.items():
            if value not in ("", {}, None):
                print(f"{key + ':':<13}{short(value) if isinstance(value, bool) else value}")
    return 0


def run_again(args) -> int:
    from tqdm import tqdm

    from vt_course.claims.ledger import run
    from vt_course.claims.ledger.claims import read_claims

    recorded = run.read_recorded()
    told, rows = read_claims(), []
    for claim in told:  # a claim whose file has no status has the recorded one
        status = claim.status or recorded.get(claim.id, {}).get("status")
        rows.append({"claim": claim, "kind": claim.kind, "paper": claim.paper, "status": status})
    chosen = [entry["claim"] for entry in wanted(args, rows)]
    bar = tqdm(chosen, unit="claim", disable=args.json or None, file=sys.stderr)
    outcomes = [run.run_claim(claim) for claim in bar]
    if args.out:
        run.write_ledger(told, outcomes, args.out)
        if args.out.resolve() == run.recorded_file() and (repo_root() / "README.md").is_file():  # a wheel has none
            run.write_status_line(repo_root() / "README.md", run.as_recorded(told))
        recorded = {}  # what was recorded before does not matter now
    red = [sentence for outcome in outcomes if (sentence := run.stale(outcome, recorded))]
    entries = [run.entry(each.claim, each.status, each.value, each.problem) for each in outcomes]
    if args.json:
        print_json(entries)
    else:
        slow = sorted(outcomes, key=lambda each: -each.seconds)[:3]
        print(run.status_line(entries))
        print("longest: " + ", ".join(f"{each.claim.id} {each.seconds:.0f} s" for each in slow))
    for sentence in red:
        print(f"vt-course: {sentence}", file=sys.stderr)
    return 1 if red else 0


def mutants(args) -> int:
    from vt_course.claims.ledger import mutants as faults
    from vt_course.claims.ledger import run
    from vt_course.claims.ledger.claims import read_claims

    told = read_claims()
    recorded = {entry["id"]: entry for entry in run.as_recorded(told)}  # refuses a ledger that is not in step
    papers = {claim.paper for claim in told}
    need(args.paper in {None, *papers}, f"no claim has the paper {args.paper!r}; {closest(str(args.paper), papers)}")
    names = [name for name, fault in faults.MUTANTS.items() if args.paper in (None, *fault.papers)]
    if args.sample:
        names = faults.sample(names, args.sample, date.today().toordinal())
    known = faults.read_rows(args.out, told) if args.out else {}
    rows = []
    for row in faults.run_mutants(names, told, recorded, known):
        rows.append(row)
        known[row["mutant"]] = row
        if args.out:
            faults.write_rows(args.out, told, list(known.values()))
        if not args.json:
            faulty = "" if row["counts"] else "  COUNTS FOR NONE"
            left = f"  SURVIVED {', '.join(row['survived'])}" if row["survived"] else ""
            print(f"{row['mutant']:<34}{len(row['killed']):>4} of {row['ran']} red{faulty}{left}", flush=True)
    told = [claim for claim in told if args.paper in (None, claim.paper)]
    left, share = faults.never_killed(told, rows), faults.share_killed(told, rows)
    if args.json:
        print_json({"mutants": rows, "never_killed": left, "share": share})
    else:
        number = len(faults.killable(told))
        print(f"{share:.1%} of {number} claims of structure, parameters, cost and parity turned red")
        if not args.sample:
            print("never: " + (", ".join(left) or "none"))
    missed = any(row["survived"] for row in rows)
    return 1 if missed or not args.sample and share < faults.SHARE else 0
