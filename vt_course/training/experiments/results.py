"""results/experiments/ID.json: the runs of a row, what they say together, and whether the row is still the same."""

import json
from pathlib import Path

from vt_course import need
from vt_course.files import atomic_write, parsing, read_json
from vt_course.training.experiments.rows import Row, digest, home, own_home, unchanged
from vt_course.training.experiments.statistics import compare, mean_and_std

ANEW = "restore it, or delete it and run the experiment again"


def result_file(id: str) -> Path:
    """Where the result of a row is read: this user's own if there is one, else the one that the course recorded."""
    own = own_file(id)
    return own if own.is_file() else home() / "results" / "experiments" / f"{id}.json"


def own_file(id: str) -> Path:
    """Where the result of a row is written."""
    return own_home() / "results" / "experiments" / f"{id}.json"


def begin(row: Row, refused: dict[str, str]) -> dict:
    """The result of a row of which no run is done. `refused`: see `switches.refusals`."""
    depends_on = row.depends_on()
    return {
        "id": row.id,
        "hash": digest(depends_on),
        "depends_on": depends_on,
        "variants": {name: {"refused": refused.get(name), "runs": []} for name in row.recipes},
    }


def read_result(id: str) -> dict | None:
    """The result of a row, or None. Raises `CourseError` for a file that `write_result` did not write."""
    path = result_file(id)
    if not path.is_file():
        return None
    result = read_json(path, ANEW, dict)
    with parsing(path, f"no result of the experiment {id}", ANEW):
        runs = [run for variant in result["variants"].values() for run in variant["runs"]]
        hashes = {digest(result["depends_on"]), result["hash"], *(run["row"] for run in runs)}
    need(len(hashes) == 1, f"{path} was changed: its row is not the one of its runs; {ANEW}")
    return result


def write_result(result: dict) -> None:
    path = own_file(result["id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, (json.dumps(summarise(result), indent=2, ensure_ascii=False) + "\n").encode())


def add_run(result: dict, name: str, run: dict) -> None:
    """Add a run to a variant, in the order of the row's seeds."""
    runs = result["variants"][name]["runs"]
    runs.append(run)
    runs.sort(key=lambda run: result["depends_on"]["row"]["seeds"].index(run["seed"]))


def summarise(result: dict) -> dict:
    """The result with what follows from its runs.

    For each variant and order of frames: mean and standard deviation (n - 1) of top1 over the seeds. For each variant
    but the first and each order: the paired difference from the first, see `statistics.compare`, and its verdict,
    which is "higher" or "lower" only if the difference is decided. Each interval stands for itself: of twenty
    differences that are not there, one will be called decided.
    """
    variants, orders = result["variants"], result["depends_on"]["row"].get("test", ["normal"])
    values = {
        (name, order): {run["seed"]: run["top1"][order] for run in variant["runs"]}
        for name, variant in variants.items()
        for order in orders
    }
    for name, variant in variants.items():
        both = {order: mean_and_std(list(values[name, order].values())) for order in orders}
        variant["mean"] = {order: mean for order, (mean, _) in both.items()}
        variant["std"] = {order: std for order, (_, std) in both.items()}
    first, *others = variants
    comparisons = []
    for name in others:
        for order in orders if not variants[name]["refused"] else ():
            found = compare(values[name, order], values[first, order])
            verdict = ("higher" if found["mean"] > 0 else "lower") if found["decided"] else "undecided"
            comparisons.append({"variant": name, "against": first, "order": order, **found, "verdict": verdict})
    runs = [run for variant in variants.values() for run in variant["runs"]]
    return result | {
        "comparisons": comparisons,
        "seconds": round(sum(run["seconds"] for run in trained_here(result)), 1),
        "peak_memory_mb": max((run["peak_memory_mb"] for run in runs), default=None),
    }


def fresh(row: Row, result: dict | None) -> bool:
    """Whether there is a result, and the row is still the one that it answers."""
    return result is not None and unchanged(result["depends_on"], row)


def missing(row: Row, result: dict | None) -> list[tuple[str, int]]:
    """(variant, seed) of all runs that are still to be made: first all variants with the first seed, and so on."""
    done, refused = set(), set()
    if fresh(row, result):
        done = {(name, run["seed"]) for name, variant in result["variants"].items() for run in variant["runs"]}
        refused = {name for name, variant in result["variants"].items() if variant["refused"]}
    return [
        (name, seed) for seed in row.seeds for name in row.recipes if (name, seed) not in done and name not in refused
    ]


def expected_seconds(row: Row, result: dict | None) -> float:
    """Of one run on one core: the mean of those trained for it, also of a stale result, else the row's estimate."""
    seconds = [run["seconds"] for run in (trained_here(result) if result else ())]
    return sum(seconds) / len(seconds) if seconds else 60 * row.minutes


def trained_here(result: dict) -> list[dict]:
    """The runs of a result without those that were trained for another row and only tested for this one."""
    runs = [run for variant in result["variants"].values() for run in variant["runs"]]
    return [run for run in runs if "trained_for" not in run]


def state(row: Row) -> dict:
    """dict(id, question, state, runs, missing, minutes). minutes: expected for the missing runs, on one core.

    state is "done", "N of M runs", "stale" (the row has changed since) or "not run".
    """
    result = read_result(row.id)
    refused = sum(bool(v["refused"]) for v in result["variants"].values()) if fresh(row, result) else 0
    runs, left = len(row.seeds) * (len(row.recipes) - refused), len(missing(row, result))
    if fresh(row, result):
        word = f"{runs - left} of {runs} runs" if left else "done"
    else:
        word = "stale" if result else "not run"
    return {
        "id": row.id,
        "question": row.told["question"],
        "state": word,
        "runs": runs,
        "missing": left,
        "minutes": round(left * expected_seconds(row, result) / 60, 1),
    }


def table(result: dict) -> list[dict]:
    """A row for each variant and order of frames: dict(id, variant, order, runs, top1, std, difference, verdict).

    top1 and std are in percent, the difference is a text such as "-8.0 [-18.4, 2.5]", in points.
    """
    found = {(each["variant"], each["order"]): each for each in result["comparisons"]}
    rows = []
    for name, variant in result["variants"].items():
        for order, mean in variant["mean"].items():
            pair, std = found.get((name, order)), variant["std"][order]
            difference = None
            if pair and pair["mean"] is not None:
                difference = f"{100 * pair['mean']:+.1f}"
                if pair["low"] is not None:
                    difference += f" [{100 * pair['low']:+.1f}, {100 * pair['high']:+.1f}]"
            rows.append(
                {
                    "id": result["id"],
                    "variant": name,
                    "order": order,
                    "runs": len(variant["runs"]),
                    "top1": mean and 100 * mean,
                    "std": std and 100 * std,
                    "difference": difference,
                    "verdict": "refused" if variant["refused"] else pair and pair["verdict"],
                }
            )
    return rows
