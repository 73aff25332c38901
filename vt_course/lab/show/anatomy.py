"""A network on one page: its parts in the order of the pass, their tokens, and where parameters and products are."""

from itertools import groupby
from math import prod

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import nn

from vt_course import CourseError, closest
from vt_course.colours import GREEN, ORANGE, SKY
from vt_course.lab.show.style import figure

SCORES, LINEAR, MLP, ELSE = ROLES = ("scores of attention", "linear layers of attention", "MLP", "all else")
SHADES = dict(zip(ROLES, (ORANGE, SKY, GREEN, "0.8")))
HATCHES = dict(zip(ROLES, ("//", "", "..", "")))


def parts(model: str) -> list[dict]:
    """The parts of a variant of the zoo, read from one pass without arithmetic, in the order of the pass.

    dict(name, blocks (0: it has none), shape (of its tokens: tokens, channels), attends [(groups, queries, keys)],
    heads, parameters {role: number}, macs {role: number}). Blocks in a row with the same heads, or without attention
    the same map, are one part. What a part attends to is that of its last block: windows or groups, the queries in
    each, and the keys that each query is compared with. Raises `CourseError` for an unknown model, and unless the
    parts have together what the whole has.
    """
    from vt_course.claims.ledger.running import ATTENTION, build, passed
    from vt_course.models import ZOO
    from vt_course.models.cost import count_parameters

    if model not in ZOO:
        raise CourseError(f"there is no model {model!r}; {closest(model, ZOO)}")
    built, seen = build(model), passed(model)
    modules = dict(built.named_modules())
    blocks = {name for name, module in modules.items() if type(module).__name__.endswith("Block")}
    holders = {way for name in blocks for way in ways_to(name)[:-1]}  # lists of blocks, and what holds the lists

    def part_of(name: str) -> str:
        """The first name on the way to a module or a parameter that is a block, or holds none."""
        return next(way for way in ways_to(name) if way in blocks or way not in holders)

    def role(name: str) -> str:
        owners = [modules[way] for way in ways_to(name) if way in modules]
        if any(type(owner).__name__.endswith("Mlp") for owner in owners):
            return MLP
        inside = any(isinstance(owner, ATTENTION) for owner in owners)
        return LINEAR if inside and isinstance(owners[-1], (nn.Linear, *ATTENTION)) else ELSE

    found = {}
    for name in [n for n in seen.outputs if n]:
        found.setdefault(part_of(name), {"parameters": dict.fromkeys(ROLES, 0), "macs": dict.fromkeys(ROLES, 0)})
    names = list(found)
    for name, parameter in built.named_parameters():
        part = part_of(name)
        found[part if part in found else names[0]]["parameters"][role(name)] += parameter.numel()
    for name, shape in seen.outputs.items():
        module = modules.get(name)
        if hasattr(module, "weight") and module.weight is not None and module.weight.ndim > 1:
            found[part_of(name)]["macs"][role(name)] += prod(shape) * module.weight[0].numel()
    for call in seen.attention:
        products = 2 * prod(call[key] for key in ("groups", "heads", "queries", "keys", "d"))
        found[part_of(call["name"])]["macs"][SCORES] += products
    calls = {name: [call for call in seen.attention if part_of(call["name"]) == name] for name in names}
    first_last = [i for i, name in enumerate(names) if name in blocks]

    def alike(i: int):
        """What neighbours have in common that become one part."""
        if names[i] in blocks:
            return "stage", tuple(call["heads"] for call in calls[names[i]]) or seen.outputs[names[i]]
        return ("begin",) if i < first_last[0] else ("end",) if i > first_last[-1] else ("between", i)

    rows, stages = [], 0
    for (kind, *_), group in groupby(range(len(names)), alike):
        group = [names[i] for i in group]
        stages += kind == "stage"
        last = group[-1]
        title = {"begin": "embedding", "end": "norm and head", "stage": f"stage {stages}"}.get(kind)
        title = title or {"PatchMerging": "merging"}.get(type(modules[last]).__name__, "embedding")
        rows.append(
            dict(
                name=title,
                blocks=len(group) if kind == "stage" else 0,
                shape=tokens_of(built, seen.outputs.get(last), calls[last]),
                attends=[(call["groups"], call["queries"], call["keys"]) for call in calls[last]],
                heads=calls[last][-1]["heads"] if calls[last] else 0,
                **{
                    key: {role: sum(found[name][key][role] for name in group) for role in ROLES}
                    for key in ("parameters", "macs")
                },
            )
        )
    for key, whole in (("parameters", count_parameters(built)), ("macs", seen.counted)):
        if (sum_of := sum(sum(row[key].values()) for row in rows)) != whole:
            raise CourseError(f"the parts of {model} have {sum_of:,} {key}, the whole has {whole:,}")
    return rows


def ways_to(name: str) -> list[str]:
    """'a.b.c' -> ['a', 'a.b', 'a.b.c']."""
    pieces = name.split(".")
    return [".".join(pieces[: i + 1]) for i in range(len(pieces))]


def tokens_of(built: nn.Module, shape: tuple | None, calls: list[dict]) -> tuple[int, ...]:
    """Tokens and channels of what a part gave out: (T, H, W, C), (H, W, C), (N, C), or (classes,)."""
    if type(built).__name__ == "UniFormer" and len(shape) > 2:
        shape = (shape[0], *shape[2:], shape[1])  # channels last, as everywhere else
    shape = shape[1:] if shape[0] == 1 else shape  # TimeSformer embeds the frames as a batch
    return (*shape[:-1], calls[-1]["heads"] * calls[-1]["d"]) if calls else shape


def attends_to(row: dict) -> str:
    """For instance "64 × (49 → 49)": in 64 windows, each of 49 queries is compared with 49 keys."""
    texts = [f"{queries:,} → {keys:,}" for _, queries, keys in row["attends"]]
    texts = [f"{groups:,} × ({text})" if groups > 1 else text for (groups, *_), text in zip(row["attends"], texts)]
    return " and ".join(texts)


def short(number: float) -> str:
    """Three digits that count, for instance 195, 39.0, 0.92; "< 0.01" below that."""
    return "< 0.01" if number < 0.01 else f"{number:.{max(0, 3 - len(str(int(number))))}f}"


@figure
def anatomy(model: str, title: str | None = None) -> Figure:
    """A variant of the zoo on one page, as `parts` reads it from the running model: a line for each part.

    Columns: its name and number of blocks; tokens × channels behind it; heads; what attends to what in its last block;
    then two bars, of its parameters and of its multiply-accumulates (MACs), divided into the products of queries with
    keys and of weights with values, the linear layers of attention, the MLP, and all else. Nothing is typed in.
    """
    rows = parts(model)
    stages = sum(row["blocks"] > 0 for row in rows)
    fig, (table, *bars) = plt.subplots(1, 3, figsize=(11, 0.42 * len(rows) + 1.9), width_ratios=[6.6, 2, 2])
    for x, text in ((0, "part"), (0.27, "tokens × channels"), (0.56, "heads"), (0.66, "queries → keys")):
        table.text(x, -0.95, text, weight="bold", va="center")
    for i, row in enumerate(rows):
        blocks = f"{row['blocks']} block{'s' * (row['blocks'] > 1)}"
        if row["blocks"]:  # one stage is no stage
            part = f"{row['name']}, {blocks}" if stages > 1 else blocks
        else:
            part = row["name"]
        shape = " × ".join(f"{n:,}" for n in row["shape"])
        shown = (part, shape if len(row["shape"]) > 1 else shape + " classes", row["heads"] or "")
        for x, text in zip((0, 0.27, 0.56, 0.66), (*shown, attends_to(row))):
            table.text(x, i, text, va="center", size=11)
    table.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -1.5), xticks=[], yticks=[])
    table.spines[:].set_visible(False)
    for axes, key, unit, heading in ((bars[0], "parameters", 1e6, "M parameters"), (bars[1], "macs", 1e9, "GMACs")):
        top = max(sum(row[key].values()) for row in rows)
        for i, row in enumerate(rows):
            left = 0
            for name in ROLES:
                style = dict(color=SHADES[name], hatch=HATCHES[name], edgecolor="0.3", linewidth=0.6, height=0.6)
                axes.barh(i, row[key][name], left=left, **style)
                left += row[key][name]
            axes.text(left + 0.03 * top, i, short(left / unit), va="center", size=11)
        axes.text(0, -0.95, heading, weight="bold", va="center")
        axes.set(xlim=(0, 1.3 * top), ylim=(len(rows) - 0.5, -1.5), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=SHADES[r], hatch=HATCHES[r], edgecolor="0.3") for r in ROLES]
    fig.legend(handles, ROLES, loc="outside lower center", ncols=4)
    sums = [sum(sum(row[key].values()) for row in rows) for key in ("parameters", "macs")]
    fig.suptitle(f"{title or model}: {sums[0] / 1e6:.1f} M parameters, {sums[1] / 1e9:.1f} GMACs of one view")
    return fig
