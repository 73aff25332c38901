"""What the papers claim, what came out here, and whether the two agree: the table at the end of notebooks 09 and 10.

A claim is the sign of a difference: with this change, a paper's numbers are higher or lower. Our differences are paired
over seeds (statistics.py). A size is not compared, because the models, the clips and the training are other ones.
"""

from itertools import combinations

from vt_course.training.experiments import results
from vt_course.training.experiments.rows import Row
from vt_course.training.experiments.statistics import compare

AGREES, DISAGREES, UNDECIDED, NOT_RUN, NO_CLAIM = "agrees", "disagrees", "undecided", "not run", "no claim"


def verdict(claimed: float | None, low: float | None, high: float | None) -> str:
    """Whether a 95 % interval `low` to `high` of a difference agrees with the sign of a claimed difference.

    "undecided" if the interval contains 0, or if there is none because there are fewer than two pairs. A claim of no
    difference, 0, can be contradicted but not confirmed: an interval around 0 may still hide a small difference.
    "no claim" if `claimed` is None.
    """
    if claimed is None:
        return NO_CLAIM
    if low is None or low <= 0 <= high:
        return UNDECIDED
    return AGREES if low * claimed > 0 else DISAGREES


def claimed_difference(row: Row, variant: str, against: str) -> dict[str, float]:
    """quantity -> the paper's number for a variant minus that for another, for all quantities stated of both."""
    one, other = (((row.told["variants"][name] or {}).get("stated", {})) for name in (variant, against))
    return {quantity: round(one[quantity] - other[quantity], 6) for quantity in one if quantity in other}


def sign(differences: dict[str, float]) -> float | None:
    """1, -1 or 0 if all of a paper's differences have this sign, else None: the paper then has no single claim."""
    signs = {(value > 0) - (value < 0) for value in differences.values()}
    return signs.pop() if len(signs) == 1 else None


def comparisons(row: Row, result: dict | None) -> list[dict]:
    """Each variant against the first; then other pairs for which the paper has a claim, so that its order is judged.

    dict(variant, against, claimed, mean, low, high, seeds, verdict), with frames in the first order of `test`. claimed:
    {quantity: difference}, of the paper, in its unit. mean, low and high: of ours, in points (percent), None without
    runs. verdict: see `verdict`, or "not run".
    """
    runs = {name: {} for name in row.recipes}
    if results.fresh(row, result):
        for name, variant in result["variants"].items():
            runs[name] = {run["seed"]: 100 * run["top1"][row.test[0]] for run in variant["runs"]}
    first, *others = row.recipes
    pairs = [(name, first) for name in others]
    pairs += [(later, name) for name, later in combinations(others, 2) if sign(claimed_difference(row, later, name))]
    lines = []
    for name, against in pairs:
        claimed, ours = claimed_difference(row, name, against), compare(runs[name], runs[against])
        said = NOT_RUN if ours["mean"] is None else verdict(sign(claimed), ours["low"], ours["high"])
        numbers = {key: ours[key] for key in ("mean", "low", "high")} | {"seeds": len(ours["seeds"])}
        lines.append(dict(variant=name, against=against, claimed=claimed, **numbers, verdict=said))
    return lines


def of_row(row: Row, result: dict | None) -> dict:
    """One line of the table: dict(id, question, paper, table, state, claim, here, verdict, comparisons).

    state: see `results.state`. claim and here are texts; here tells differences, or accuracies if nothing is claimed.
    verdict: "disagrees" if one comparison does, "agrees" if all with a claim agree, else "undecided"; "not run" without
    runs, and "no claim" if no paper claims anything.
    """
    lines = comparisons(row, result)
    claims = [line for line in lines if sign(line["claimed"]) is not None]
    said = {line["verdict"] for line in claims}
    if not results.fresh(row, result) or not any(v["runs"] for v in result["variants"].values()):
        overall = NOT_RUN
    elif not claims:
        overall = NO_CLAIM
    elif DISAGREES in said:
        overall = DISAGREES
    else:
        overall = AGREES if said == {AGREES} else UNDECIDED
    here = [told_difference(row, line) for line in lines]
    if overall in (NOT_RUN, NO_CLAIM):
        here = told_accuracies(row, result) if overall == NO_CLAIM else []
    return {
        "id": row.id,
        "question": row.told["question"],
        "paper": row.told["paper"],
        "table": row.told["table"],
        "state": results.state(row)["state"],
        "claim": "; ".join(told_claim(row, line) for line in claims) or "none",
        "here": "; ".join(here),
        "verdict": overall,
        "comparisons": lines,
    }


def told_claim(row: Row, line: dict) -> str:
    """For instance "none: −2.6 (top-1 Kinetics-400), −13.7 (top-1 SSv2)"."""
    numbers = ", ".join(f"{signed(value)} ({quantity})" for quantity, value in line["claimed"].items())
    return f"{told_pair(row, line)}: {numbers}"


def told_pair(row: Row, line: dict) -> str:
    """The variant, and what it is compared with if that is not the first of the row."""
    first = next(iter(row.recipes))
    return line["variant"] + ("" if line["against"] == first else f" against {line['against']}")


def told_difference(row: Row, line: dict) -> str:
    """For instance "none: −60.1 [−71.0, −49.2], 3 seeds"."""
    if line["mean"] is None:
        return f"{told_pair(row, line)}: not run"
    interval = "" if line["low"] is None else f" [{signed(line['low'])}, {signed(line['high'])}]"
    seeds = f"{line['seeds']} seed{'s' * (line['seeds'] != 1)}"
    return f"{told_pair(row, line)}: {signed(line['mean'])}{interval}, {seeds}"


def told_accuracies(row: Row, result: dict) -> list[str]:
    """For each variant, for instance "MViT: 99.8 normal, 27.8 shuffled, 2 seeds"."""
    told = []
    for name, variant in result["variants"].items():
        means = ", ".join(f"{100 * variant['mean'][order]:.1f} {order}" for order in row.test if variant["runs"])
        seeds = len(variant["runs"])
        told.append(f"{name}: {means}, {seeds} seed{'s' * (seeds != 1)}" if means else f"{name}: not run")
    return told


def signed(value: float) -> str:
    """One digit, a sign, and the minus of typography; "0.0" without a sign."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def table(rows: list[Row]) -> list[dict]:
    """`of_row` for each of `rows`, with the results that lie in results/experiments."""
    return [of_row(row, results.read_result(row.id)) for row in rows]
