"""The rows of `experiments.yaml`: what each may say, and everything on which its result depends.

The file lies at the root of the checkout, beside results/, because the two are read together: a row says what was
expected, the result of the same name says what came out. A wheel carries both.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from vt_course import CourseError, closest, need, own_root, repo_root
from vt_course.data import images, synthetic
from vt_course.files import read_yaml
from vt_course.models import ZOO
from vt_course.training.checkpoint import build_model
from vt_course.training.experiments.switches import CLASSES
from vt_course.training.folder import with_defaults
from vt_course.training.recipes import ORDERS, Recipe, recipe_for
from vt_course.training.start import digest as digest_of_start

TEXTS = ("id", "question", "paper", "table", "expectation", "data")
NEEDED = (*TEXTS, "seeds", "minutes", "variants")
KEYS = (*NEEDED, "model", "recipe", "test", "curves")
VARIANT_KEYS = ("model", "config", "recipe", "stated")
ELSEWHERE = {"model": "model", "config": "config", "data": "data", "seed": "seeds"}  # settings with keys of their own


@dataclass(frozen=True)
class Row:
    """One question. `told`: the row as it is written, in plain JSON. `minutes`: of one run, on one quiet core."""

    id: str
    told: dict
    minutes: float
    seeds: tuple[int, ...]
    test: tuple[str, ...]  # orders of the frames in which each run is tested
    recipes: dict[str, Recipe]  # for each variant, the first of which is the reference

    def depends_on(self) -> dict:
        """All that a result of this row depends on, in plain JSON: the row with its expectation, recipes, models, data,
        and the weights from which a variant starts.

        The estimate `minutes` is left out. The code is not included; each run records its commit.
        """
        starts = {recipe.init: digest_of_start(recipe.init) for recipe in self.recipes.values() if recipe.init}
        return json.loads(
            json.dumps(
                {
                    "row": {key: value for key, value in self.told.items() if key != "minutes"},
                    "recipes": {name: dataclasses.asdict(recipe) for name, recipe in self.recipes.items()},
                    "models": {
                        model: ZOO[model].config
                        for recipe in self.recipes.values()
                        for model in (recipe.model, *(recipe.inflate and [recipe.image().model]))
                    },
                    "data": {
                        "synthetic": {"version": synthetic.VERSION},
                        "images": {"version": images.VERSION, "counts": images.COUNTS},
                    }.get(self.told["data"].partition(":")[0]),
                    **({"starts": starts} if starts else {}),
                }
            )
        )


def digest(depends_on: dict) -> str:
    """SHA-256 of the result of `Row.depends_on`."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def unchanged(then: dict, row: Row) -> bool:
    """Whether a result that depends on `then` answers `row`. Settings that an older version lacked have defaults."""
    recipes = {name: with_defaults(recipe) for name, recipe in then["recipes"].items()}
    return then | {"recipes": recipes} == row.depends_on()


def home() -> Path:
    """The folder of experiments.yaml and of the results that the course has recorded."""
    return repo_root()


def own_home() -> Path:
    """The folder of runs/ and of new results/."""
    return own_root(home())


def rows_file() -> Path:
    return home() / "experiments.yaml"


def read_rows(path: Path | None = None) -> list[Row]:
    """The rows of a file (default: that of the checkout).

    Raises `CourseError` for anything that a run would stumble over: an unknown or missing key, an unknown model, a
    setting of a model or a recipe that does not exist or cannot work. The message names the row and the key.
    """
    path = path or rows_file()
    if not path.is_file():
        raise CourseError(f"there is no {path}: restore it, or install the course again")
    entries = read_yaml(path, "correct it")
    if not isinstance(entries, list) or not entries:
        raise CourseError(f"{path} is no list of rows; begin each with `- id: NAME`")
    rows = [read_row(entry, path, number) for number, entry in enumerate(entries, 1)]
    ids = [row.id for row in rows]
    if twice := next((id for id in ids if ids.count(id) > 1), None):
        raise CourseError(f"{path} has two rows with the id {twice!r}: rename one")
    return rows


def read_row(entry, path: Path, number: int) -> Row:
    """The row of entry `number` of the file `path`; see `read_rows`."""
    need(isinstance(entry, dict), f"{path}, row {number}: it must have the keys {', '.join(NEEDED)}")
    place = f"{path}, row {entry.get('id', number)!r:.60}"
    known(entry, KEYS, place)
    missing = [key for key in NEEDED if key not in entry]
    need(not missing, f"{place}: it lacks {', '.join(missing)}")
    for key in TEXTS:
        need(isinstance(entry[key], str) and entry[key].strip(), f"{place}: {key} must be a text")
    slug = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry["id"])
    need(slug, f"{place}: id must be small letters, digits and hyphens, because it names a file")
    seeds, test, minutes, variants = entry["seeds"], entry.get("test", ["normal"]), entry["minutes"], entry["variants"]
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    need(whole and seeds and len(set(seeds)) == len(seeds), f"{place}: seeds must be a list of different whole numbers")
    texts = isinstance(test, list) and test and all(isinstance(order, str) for order in test)
    need(texts and len(set(test)) == len(test), f"{place}: test must be a list of orders of frames")
    known(test, ORDERS, f"{place}, test", "order of frames")
    need(entry.get("curves", True) is True, f"{place}: curves must be true, or not be there")
    number = type(minutes) in (int, float) and minutes > 0
    need(number, f"{place}: minutes must be a number above 0, those of one run on one core")
    named = isinstance(variants, dict) and variants and all(name.strip() for name in variants)
    need(named, f"{place}: variants must map names to variants, the first of which is the reference")
    recipes = {name: variant_recipe(entry, name, variant, place) for name, variant in variants.items()}
    for name, recipe in recipes.items():
        moves = recipe.frames > 1 or set(test) == {"normal"}
        need(moves, f"{place}: test must be [normal], because variant {name!r} sees one frame")
        for seed in seeds:
            in_place(f"{place}, seeds", dataclasses.replace, recipe, seed=seed)
    return Row(entry["id"], entry, float(minutes), tuple(seeds), tuple(test), recipes)


def variant_recipe(entry: dict, name: str, variant, place: str) -> Recipe:
    """The recipe of a variant, with seed 0: that of its model, changed by the row and then by the variant."""
    variant, here = {} if variant is None else variant, f"{place}, variant {name!r}"
    need(isinstance(variant, dict), f"{here}: it must have some of the keys {', '.join(VARIANT_KEYS)}, or none")
    known(variant, VARIANT_KEYS, here)
    model = variant.get("model", entry.get("model"))
    need(isinstance(model, str), f"{here}: model must name a model, here or in the row")
    recipe = in_place(f"{here}, model", recipe_for, model)
    for source, at in ((entry, place), (variant, here)):
        settings = source.get("recipe", {})
        need(isinstance(settings, dict), f"{at}: recipe must map settings to values")
        for setting, key in ELSEWHERE.items():
            need(setting not in settings, f"{at}: recipe must not have {setting}, because the key {key} says it")
        changed = json.loads(recipe.to_json()) | settings
        recipe = in_place(f"{at}, recipe", Recipe.from_json, json.dumps(changed))
    config, stated = variant.get("config", {}), variant.get("stated", {})
    need(isinstance(config, dict), f"{here}: config must map settings of the model to values")
    numbers = isinstance(stated, dict) and all(type(value) in (int, float) for value in stated.values())
    need(numbers, f"{here}: stated must map quantities to the numbers of the paper")
    recipe = in_place(f"{here}, config", dataclasses.replace, recipe, config=config, data=entry["data"])
    in_place(f"{here}, config", build_model, recipe, CLASSES)
    if recipe.init:
        need(digest_of_start(recipe.init), f"{here}: init={recipe.init}: there is no such file of weights")
    return recipe


def known(names, allowed, place: str, kind: str = "key") -> None:
    """Raise `CourseError` for a name that is not allowed; the message names the closest one that is."""
    for name in names:
        if name not in allowed:
            raise CourseError(f"{place}: unknown {kind} {name!r}; {closest(name, allowed)}")


def in_place(place: str, make, *arguments, **settings):
    """`make(...)`. A `CourseError` that it raises then also names the place."""
    try:
        return make(*arguments, **settings)
    except CourseError as error:
        raise CourseError(f"{place}: {error}") from error
