"""The ledger of claims as notebook 10 shows it: what a reader asks for, as a table.

No number stands here. What a paper states, what was found and the status come from the files of the claims and from
results/claims.json, which `vt-course claims --run` writes; differences of trainings come from results/experiments.
"""

from dataclasses import dataclass
from functools import cache
from html import escape

from vt_course.claims.ledger import run
from vt_course.claims.ledger.claims import (
    DIFFERS,
    EXACT,
    KINDS,
    NOT_RUN,
    SCALED,
    STATUSES,
    UNDECIDED,
    UNVERIFIED,
    WITHIN,
    Claim,
    read_claims,
    slug,
)
from vt_course.models.zoo import ZOO
from vt_course.training.experiments import results, rows, verdicts

MARKS = dict(zip((EXACT, WITHIN, SCALED, DIFFERS, UNDECIDED, NOT_RUN, UNVERIFIED), "✓≈▽✗?–◌"))
SHOWN = 12  # claims that `claims` shows unless asked for more


@dataclass(frozen=True)
class Table:
    """Rows under headings, a title above and a note below: HTML where a page can show it, aligned text elsewhere."""

    headings: tuple[str, ...]
    rows: list[tuple]
    note: str = ""
    title: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def cells(self) -> list[list[str]]:
        return [[str(cell) for cell in row] for row in self.rows]

    def _repr_html_(self) -> str:
        style = ' style="text-align:left"'  # JupyterLab's own rule sets all to the right; GitHub drops the style
        head = "".join(f"<th{style}>{escape(name)}</th>" for name in self.headings)
        body = "".join(
            f"<tr>{''.join(f'<td{style}>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.cells()
        )
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        title = f"<p><strong>{escape(self.title)}</strong></p>" if self.title else ""
        return f"{title}<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>{note}"

    def __repr__(self) -> str:
        lines = [list(self.headings), *self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join(filter(None, [self.title, *text, self.note]))


# ---------------------------------------------------------------- the ledger


@cache
def told() -> dict[str, Claim]:
    """id -> claim, of all the claims of the course, in the order of their files."""
    return {claim.id: claim for claim in read_claims()}


@cache
def ledger() -> dict[str, dict]:
    """id -> entry of the recorded ledger. Raises `CourseError` where it is not in step with the files of the claims."""
    return {entry["id"]: entry for entry in run.as_recorded(list(told().values()))}


@cache
def asked() -> dict[str, rows.Row]:
    """id -> row of experiments.yaml."""
    return {row.id: row for row in rows.read_rows()}


def select(**filters: str) -> list[dict]:
    """The entries whose paper, kind and status are those asked for. Raises `CourseError` for a value that none has."""
    return run.select(list(ledger().values()), **filters)


def claims(paper: str = "", kind: str = "", status: str = "", words: str = "", most: int = SHOWN) -> Table:
    """The claims of a paper, of a kind, with a status, and with `words` in their id, place or text.

    At most `most` are shown; the note says how many there are, and how they came out.
    """
    found = [
        entry
        for entry in select(paper=paper, kind=kind, status=status)
        if words.lower() in f"{entry['id']} {entry['where']} {entry['claim']}".lower()
    ]
    shown = [(e["id"], where(e), e["claim"], value(e["stated"]), value(e["found"]), mark(e)) for e in found[:most]]
    headings = ("id", "where", "claim", "stated", "ours", "status")
    if any(e["status"] == DIFFERS for e in found[:most]):
        headings += ("why it differs",)
        shown = [(*row, e["explanation"] if e["status"] == DIFFERS else "") for row, e in zip(shown, found)]
    left = f" The first {most} are shown." if len(found) > most else ""
    return Table(headings, shown, (run.status_line(found) + "." if found else "none") + left)


def counts(by: str, entries: list[dict] | None = None) -> dict[str, dict[str, int]]:
    """How many claims have which status: name of a paper or kind (`by`) -> {status: number}, empty statuses too."""
    entries = list(ledger().values()) if entries is None else entries
    known = {entry[by] for entry in entries}
    names = [kind for kind in KINDS if kind in known] if by == "kind" else dict.fromkeys(entry[by] for entry in entries)
    return {name: run.counts([entry for entry in entries if entry[by] == name]) for name in names}


def count_table(by: str) -> Table:
    """`counts` as a table, with sums."""
    counted = counts(by)
    counted["all"] = {status: sum(each[status] for each in counted.values()) for status in STATUSES}
    lines = [(name, *(each[status] or "" for status in STATUSES), sum(each.values())) for name, each in counted.items()]
    return Table((by, *STATUSES, "all"), lines)


# ---------------------------------------------------------------- words


def mark(entry: dict) -> str:
    """The status behind its sign, which stays on one line with it."""
    return f"{MARKS[entry['status']]}\N{NO-BREAK SPACE}{entry['status']}"


def where(entry: dict) -> str:
    """The place of a claim: of a file only its name, and the grade of a source that is not the paper itself.

    For instance "section 3.2", "swin_transformer.py; section 3.2 (code)", "table 5 (a secondary source)", and "section
    3.2 (course)" where the stated value is what we measured before. The path of a file stands in the entry.
    """
    place = entry["where"].removeprefix("secondary, ")
    if entry["source"] == "repository" or "/" in place.split("; ")[0].split()[0]:
        first, *more = place.split("; ")
        place = "; ".join([first.split("/")[-1], *more])
    grades = {
        "repository": " (code)",
        "secondary": " (a secondary source)",
        "memory": " (from memory)",
        "course": " (course)",
    }
    return place + grades.get(entry["source"], "")


def value(stated) -> str:
    """A stated or found value as text: yes, no, 25,089, or the entries of a list."""
    if isinstance(stated, bool):
        return "yes" if stated else "no"
    if isinstance(stated, list):
        return str(stated).strip("[]") if not any(isinstance(each, list) for each in stated) else str(stated)
    return "" if stated is None else f"{stated:,}" if type(stated) is int else str(stated)


def firm(entry: dict) -> bool:
    """Whether a number was read in a paper or a repository, and not in a text of other authors."""
    return entry["source"] in ("paper", "repository")


def difference(entry: dict) -> str:
    """Ours against theirs, in percent of theirs; "" for what is no number."""
    one, other = entry["stated"], entry["found"]
    if (
        bool in (type(one), type(other))
        or not isinstance(one, int | float)
        or not isinstance(other, int | float)
        or not one
    ):
        return ""
    return f"{verdicts.signed(100 * (other - one) / one)} %"


# ---------------------------------------------------------------- the tables of a paper


def models_of(paper: str) -> list[str]:
    """The variants of the zoo of which a paper or its repository states something, in the order of the ledger."""
    entries = select(paper=paper)
    return list(dict.fromkeys(e["arguments"]["model"] for e in entries if e["generated"] and "model" in e["arguments"]))


def accuracies_of(model: str) -> list[tuple[str, dict]]:
    """(data set, entry) of each accuracy that is stated for a variant of the zoo, for instance ("K400", ...)."""
    quantities = [quantity for quantity, _, _ in ZOO[model].stated if quantity.startswith("top-1 ")]
    return [(quantity.removeprefix("top-1 "), ledger()[f"{model}-{slug(quantity)}"]) for quantity in quantities]


def main_table(paper: str) -> Table:
    """Every published variant of a paper: parameters and multiply-accumulates, theirs and ours; their accuracies."""
    lines = []
    for model in models_of(paper):
        line = [model]
        for quantity in ("parameters", "gmacs"):
            entry = ledger().get(f"{model}-{quantity}")
            line += (
                [value(entry["stated"]), value(entry["found"]), difference(entry), mark(entry)] if entry else [""] * 4
            )
        stated = [
            f"{value(entry['stated'])}{'' if firm(entry) else f' {MARKS[UNVERIFIED]}'} {data}, views {entry['found']}"
            for data, entry in accuracies_of(model)
        ]
        lines.append((*line, "; ".join(stated)))
    one = ("ours", "difference", "status")
    return Table(
        ("model", "paper: M parameters", *one, "paper: GMACs of a view", *one, "paper: top-1, not run here"),
        lines,
        title=f"Main table of {paper}",
    )


def ablations(paper: str) -> Table:
    """What the paper states of the parameters and the cost of changed models, and ours."""
    entries = [e for kind in ("cost", "parameters") for e in select(paper=paper, kind=kind) if not e["generated"]]
    lines = [(where(e), e["claim"], value(e["stated"]), value(e["found"]), difference(e), mark(e)) for e in entries]
    title = f"Changed models of {paper}"
    return Table(("where", "claim", "paper", "ours", "difference", "status"), lines, title=title)


def trends(paper: str) -> Table:
    """Differences of accuracies that a paper states, and those of our small models: which model, on which data."""
    lines = []
    for entry in select(paper=paper, kind="trend"):
        told = entry["arguments"]
        row = asked()[told["row"]]
        (line,) = [
            each
            for each in verdicts.comparisons(row, results.read_result(row.id))
            if (each["variant"], each["against"]) == (told["variant"], told["against"])
        ]
        theirs = "; ".join(f"{verdicts.signed(number)} {quantity}" for quantity, number in line["claimed"].items())
        ours = verdicts.told_difference(row, line).removeprefix(f"{verdicts.told_pair(row, line)}: ")
        recipe = row.recipes[told["variant"]]
        size = " × ".join(map(str, ZOO[recipe.model].input))
        change = f"{told['variant']} against {told['against']}"
        scale = f"{recipe.model}, {recipe.data.removeprefix('synthetic:')}, {size}"
        lines.append((where(entry), change, theirs, ours, scale, mark(entry)))
    headings = (
        "where",
        "A against B",
        "paper: A − B, points",
        "ours: A − B, points [95 %]",
        "ours: model, data, input",
    )
    return Table((*headings, "status"), lines, title=f"Trends of {paper}")


def deviations(paper: str) -> Table:
    """Where a paper and its released code disagree, or one of them with itself, and what the running code does."""
    lines = [
        (
            where(e),
            e["claim"],
            value(e["stated"]),
            value(e["found"]),
            e["unit"],
            mark(e),
            e["explanation"],
            e["teaches"],
        )
        for e in select(paper=paper, kind="deviation")
    ]
    headings = ("where", "what is said", "stated", "ours", "the numbers are", "status", "why it differs", "notebook")
    return Table(headings, lines, title=f"Deviations of {paper}")


def misread() -> Table:
    """What notes on the papers often get wrong: the right statement, with the value that the check found."""
    entries = select(kind="literature")
    lines = [(e["paper"], e["claim"], value(e["found"]), mark(e), e["teaches"]) for e in entries]
    return Table(("paper", "what is right", "found", "status", "notebook"), lines)


def open_questions(paper: str) -> Table:
    """What is not decided, not run or not verified, and what would settle it. Accuracies are counted in the note, and
    the claims whose source was not read are one row."""
    lines, unread = [], []
    for entry in select(paper=paper):
        if entry["kind"] == "accuracy" or entry["status"] not in (UNDECIDED, NOT_RUN, UNVERIFIED):
            continue
        if entry["status"] == UNVERIFIED:
            unread.append(entry)
            continue
        if "row" not in entry["arguments"]:  # no experiment: it says itself what is missing
            settles = entry["explanation"]
        else:
            settles = f"vt-course experiments --only {entry['arguments']['row']}"
            settles += " with more seeds" if entry["status"] == UNDECIDED else ""
        lines.append((entry["claim"], mark(entry), settles))
    if unread:
        places = ", ".join(dict.fromkeys(entry["where"].removeprefix("secondary, ") for entry in unread))
        lines.append((f"{len(unread)} numbers ({places})", mark(unread[0]), "compare with the text of the paper"))
    accuracies = len([entry for entry in select(paper=paper) if entry["kind"] == "accuracy"])
    note = f"And {accuracies} accuracies, which need the released weights and the data set of the paper."
    return Table(("claim", "status", "what would settle it"), lines, note, f"Open questions of {paper}")


# ---------------------------------------------------------------- all papers in one picture


def landscape() -> list[dict]:
    """What the papers state of each variant with an accuracy: dict(paper, family, model, data, accuracy, parameters,
    gmacs, views, firm).

    All numbers are theirs; what is not stated is None. parameters: in millions. gmacs: of all the views with which the
    accuracy was measured; the stated number is of one view. firm: whether all were read in a paper or a repository,
    and not in a table of other authors. family: that of the paper, or "ViT" for the baseline that it compares with.
    """
    points = []
    for model in ZOO:
        size, cost = (ledger().get(f"{model}-{quantity}") for quantity in ("parameters", "gmacs"))
        for data, accuracy in accuracies_of(model):
            clips, crops = map(int, accuracy["found"].split("x"))
            points.append(
                dict(
                    paper=accuracy["paper"],
                    family="ViT" if model.startswith("vit_") else accuracy["paper"],
                    model=model,
                    data=data,
                    accuracy=accuracy["stated"],
                    parameters=size and size["stated"],
                    gmacs=cost and cost["stated"] * clips * crops,
                    views=accuracy["found"],
                    firm=all(firm(each) for each in (size, cost, accuracy) if each),
                )
            )
    return points
