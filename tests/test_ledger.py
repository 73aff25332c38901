"""The ledger of claims: what may stand in its files, how a status is found, and that faults are noticed."""

import ast
import json
import re
from collections import Counter

import jsonschema
import pytest
import torch
from test_cli import refused, run_json
from test_cli import run as command

from vt_course import CourseError, repo_root
from vt_course.claims.ledger import claims, effects, mutants, run, running, unrun
from vt_course.claims.ledger.claims import DIFFERS, EXACT, NOT_RUN, SCALED, UNDECIDED, UNVERIFIED, WITHIN, Claim
from vt_course.cli import parser
from vt_course.fetch.weights import releases
from vt_course.models import swin, timesformer
from vt_course.models.zoo import ZOO
from vt_course.training.experiments import verdicts

READ = claims.read_claims
TOLD = READ()
RECORDED = run.as_recorded(TOLD)
BY_ID = {claim.id: claim for claim in TOLD}


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Reading all claims takes two seconds, most of them for the rows of experiments."""
    monkeypatch.setattr(claims, "read_claims", lambda: TOLD)


def claim(**changes) -> Claim:
    same = dict(
        id="one", paper="Swin", version="", where="table 1", claim="It is so.", kind="structure", check="output"
    )
    return Claim(**same | changes)


# ---------------------------------------------------------------- the files


def test_the_ledger_is_large_enough_and_most_of_it_runs_something():
    executing = [each for each in TOLD if not (each.generated and each.check != "equals_the_recording")]
    assert len(TOLD) >= 300 and len(executing) >= 120
    assert sum(each.kind == "deviation" for each in TOLD) >= 20
    assert {each.kind for each in TOLD} == set(claims.KINDS) and len({each.paper for each in TOLD}) == 5


def test_every_number_of_the_zoo_is_a_claim():
    stated = Counter(name for name, variant in ZOO.items() for _ in variant.stated)
    of_zoo = [each for each in TOLD if each.generated and "model" in each.arguments]
    assert Counter(each.arguments["model"] for each in of_zoo) == stated


def test_what_is_secondary_or_remembered_never_counts_as_verified():
    weak = [each for each in RECORDED if each["source"] in ("secondary", "memory")]
    assert len(weak) > 20 and not {each["status"] for each in weak} & {EXACT, WITHIN}


LEANS = re.compile(
    r"(And|So|Also|Nor|Or|As|It|Its|They|Their|Them|Those|These|This|That|The same|The other|In general)\b"
    r"|There (?!is|are)"
)


def test_a_claim_is_understood_without_the_one_before_it():
    told = [claim for claim in TOLD if not claim.generated]
    leaning = [claim.id for claim in told if LEANS.match(claim.claim) or len(claim.claim.split()) < 4]
    assert not leaning, "these begin as if another claim stood before them, or are no sentence"
    twice = [text for text, n in Counter((claim.paper, claim.claim) for claim in told).items() if n > 1]
    assert not twice


def test_what_differs_is_explained():
    assert [each["id"] for each in RECORDED if each["status"] == DIFFERS and len(each["explanation"]) < 15] == []


def test_readme_has_the_status_line():
    readme = re.sub(r"\s+", " ", (repo_root() / "README.md").read_text(encoding="utf-8"))
    assert run.status_line(RECORDED) in readme, f"write into README.md: {run.status_line(RECORDED)}"


def test_the_numbers_of_the_register_of_deviations_are_those_of_the_ledger():
    """docs/researchers.md: each row has a claim with the stated number and ours, or it is no row of numbers."""
    page = (repo_root() / "docs" / "researchers.md").read_text(encoding="utf-8")
    table = page.partition("**Stated numbers that we could not reproduce.**")[2].partition("**Stated findings")[0]
    lines = [line.split(" | ") for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    differ = [
        each for each in RECORDED if type(each["found"]) is float and each["status"] in (DIFFERS, WITHIN, UNVERIFIED)
    ]
    for where, stated, ours in lines:
        wanted, found = (list(map(float, re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text))) for text in (stated, ours))
        assert wanted and found, where
        for number in wanted:
            near = [e for e in differ if e["stated"] == number or float(e["stated"]) == number]
            assert any(
                abs(e["found"] - value) <= 0.5 * 10.0 ** -(value != int(value)) for e in near for value in found
            ), (where, number)


def test_the_status_line_is_written_into_its_paragraph(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "One.\n\nThe ledger holds 1 claims: 1\nexact. More " + "words " * 20 + "\n\nTwo.\n", encoding="utf-8"
    )
    run.write_status_line(readme, RECORDED)
    first, second, third = readme.read_text(encoding="utf-8").split("\n\n")
    assert (first, third) == ("One.", "Two.\n") and max(map(len, second.splitlines())) <= 120
    assert " ".join(second.split()).startswith(f"The ledger holds {run.status_line(RECORDED)}. More words")
    before = readme.read_bytes()
    run.write_status_line(readme, RECORDED)
    assert readme.read_bytes() == before


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    "tags, words",
    [
        (
            {("03", 7): {"swin-170"}},
            "notebook 03, section 7: the tag claim:swin-170 names no claim; did you mean swin-169",
        ),
        ({("04", 7): {"swin-169"}}, "the tag claim:swin-169 names a claim that 03, section 7 teaches"),
        (
            {("03", 7): set(), ("03", 6): {"swin-169"}},
            "03, section 7 teaches the claim swin-169, but no cell of it has a tag",
        ),
    ],
    ids=["unknown", "other notebook", "none"],
)
def test_a_tag_without_a_claim_and_a_section_without_a_tag_are_refused(monkeypatch, tags, words):
    monkeypatch.setattr(claims, "tagged", lambda: tags)
    with pytest.raises(CourseError, match=re.escape(words)):
        claims.check_tags([BY_ID["swin-169"]])


def test_every_notebook_of_an_architecture_has_tags():
    found = Counter(notebook for (notebook, _), ids in claims.tagged().items() for _ in ids)
    assert {notebook for notebook, number in found.items() if number >= 10} >= {"03", "04", "05", "06", "07"}


PAPER_OF = {
    "swin": "Swin",
    "video_swin": "Video Swin",
    "mvit": "MViT",
    "mvit_config": "MViT",
    "timesformer": "TimeSformer",
    "uniformer": "UniFormer",
}


def docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return " ".join(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("name", PAPER_OF)
def test_tables_that_a_model_cites_have_claims(name):
    cited = set(
        re.findall(r"\btable (\d\w*|[A-Z]\.\d+)", docstrings(repo_root() / "vt_course" / "models" / f"{name}.py"))
    )
    where = " ".join(each.where for each in TOLD if each.paper == PAPER_OF[name])
    known = {table for found in re.findall(r"\btables? (\w+(?:\.\d+)?)(?: and (\w+))?", where) for table in found}
    assert cited and cited <= known, cited - known


def test_claims_that_texts_name_exist():
    """`claim:ID` in a docstring, a comment or a page."""
    root = repo_root()
    files = [
        *root.glob("vt_course/**/*.py"),
        *root.glob("docs/*.md"),
        root / "README.md",
        root / "notebooks" / "AUTHORS.md",
    ]
    named = {id for file in files for id in re.findall(r"\bclaim:([a-z][\w.-]*\w)", file.read_text(encoding="utf-8"))}
    assert named <= set(BY_ID), named - set(BY_ID)


def test_every_paper_of_the_ledger_is_cited():
    cited = (repo_root() / "CITATION.cff").read_text(encoding="utf-8")
    numbers = {
        number for each in TOLD for number in re.findall(r"arXiv (\d{4}\.\d{5})", f"{each.version} {each.where}")
    }
    assert len(numbers) >= 7 and {number for number in numbers if f"arXiv:{number}" not in cited} == set()


# ---------------------------------------------------------------- accuracies that are not run


def test_what_is_not_run_has_a_command_that_exists_and_an_estimate():
    names = releases()
    for each in TOLD:
        if each.kind == "accuracy" and each.generated:
            commands = re.findall(r"`(vt-course [^`]*)`", each.why)
            named = re.findall(r"(?:evaluate|weights get) (?!runs/)(\w+/\w+)", each.why)
            assert commands and set(named) <= set(names), each.id
            assert re.search(r"Estimated from .*: [\d,]+ seconds .* \d+\.\d GB|There is no estimate", each.why), each.id
            for command in commands:
                words = command.split()[1:]
                if words[1:]:
                    parser().parse_args(words)
    rates, _ = unrun.measured()
    assert 25 < rates["MViT"] < 45  # 10^9 MACs a second
    assert f"{5000 * 70.5 / rates['MViT']:,.0f} seconds of two cores for 1,000 videos (5x1" in unrun.estimate(
        "mvit_base_16x4"
    )


ENTRY = {
    "id": "one",
    "where": "table 1",
    "claim": "It is so.",
    "check": "output",
    "with": {"model": "swin_mini", "at": "patch_embed"},
    "teaches": "03, section 1",
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"check": None}, "'one': it has no check, so nothing tries it; name a function"),
        ({"check": "outputs"}, "'one': unknown check 'outputs'; did you mean output?"),
        ({"teaches": "03, section 99"}, "claim one: dead link, there is no 03, section 99"),
        ({"teaches": "30, section 1"}, "claim one: dead link, there is no 30, section 1"),
        ({"teaches": "notebook 03"}, "claim one: teaches must name a section, such as `04, section 7`"),
        ({"status": "differs"}, "'one': it differs, so it needs an explanation, `why`"),
        ({"status": "exakt"}, "'one': unknown status 'exakt'; did you mean exact?"),
        (
            {"source": "hearsay"},
            "'one': unknown source 'hearsay'; there are paper, repository, secondary, memory, course",
        ),
        ({"tolerence": 0.1}, "'one': unknown key 'tolerence'; did you mean tolerance?"),
        ({"tolerance": 3}, "'one': tolerance must be a share, for instance 0.01"),
        ({"id": "One Claim"}, "id must be small letters and hyphens"),
        ({"with": [1]}, "with must map the arguments of the check"),
        ({"where": ""}, "it lacks where"),
    ],
)
def test_a_faulty_claim_is_refused_in_one_sentence(tmp_path, change, words):
    head = {"paper": "Swin", "version": "", "family": "none", "recordings": "none", "teaches": {}}
    entry = {key: value for key, value in {**ENTRY, **change}.items() if value is not None}
    (tmp_path / "swin.yaml").write_text(json.dumps(head | {"structure": [entry]}), encoding="utf-8")
    with pytest.raises(CourseError, match=re.escape(words)) as error:
        claims.read_paper(tmp_path / "swin.yaml", [])
    assert str(error.value).startswith("swin.yaml, ") and "\n" not in str(error.value)


def test_a_check_without_a_claim_is_refused(monkeypatch):
    monkeypatch.setitem(running.CHECKS, "idle", lambda: True)
    with pytest.raises(CourseError, match="no claim uses the check idle: write one, or remove the function"):
        READ()


def test_a_ledger_that_is_not_in_step_is_refused(monkeypatch):
    first = TOLD[0]
    for entries, words in (
        ({}, "there is no .*claims.json: restore it, or install the course again"),
        ({RECORDED[1]["id"]: RECORDED[1]}, f"the claim {first.id} is not in results/claims.json"),
        ({first.id: {**RECORDED[0], "stated": 49}}, f"the claim {first.id} is recorded with another stated"),
        ({"gone": RECORDED[0]}, "has a claim .'gone'. that no file has"),
    ):
        monkeypatch.setattr(run, "read_recorded", lambda entries=entries: entries)
        with pytest.raises(CourseError, match=words):
            run.as_recorded(TOLD)


# ---------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    "value, stated, tolerance, status",  # of numbers as they are printed
    [
        (48, 48, 0, EXACT),
        (49, 48, 0.5, WITHIN),
        (49, 48, 0, DIFFERS),
        (28.288, 28, 0, EXACT),  # it rounds to the digits stated
        (28.288, 29, 0.01, DIFFERS),
        (36.611, 36.6, 0, EXACT),
        (36.66, 36.6, 0, DIFFERS),
        (36.66, 36.6, 0.01, WITHIN),
        (199.9995, 200.0, 0, EXACT),
        (199.4, 200.0, 0, DIFFERS),
        (2.04, 2.0, 0, EXACT),
        (2.2, 2.0, 0, DIFFERS),
        (199.4, 200.0, 0.01, WITHIN),
        (1e-5, 1e-5, 0, EXACT),
        (1e-6, 1e-5, 0, DIFFERS),
        (True, True, 0, EXACT),
        (False, True, 0, DIFFERS),
        (1, True, 0, DIFFERS),
        (True, 1, 0, DIFFERS),
        ([1, 2], [1, 2], 0, EXACT),
        ([1, 2], [1, 2, 3], 0, DIFFERS),
        ([0.5004, 2.0], [0.5, 2.0], 0.01, EXACT),
        ("4x3", "4x3", 0, EXACT),
        (float("nan"), 1.0, 0, DIFFERS),
        (None, True, 0, DIFFERS),
    ],
)
def test_agreement(value, stated, tolerance, status):
    assert run.agreement(value, stated, tolerance, printed=True) == status


@pytest.mark.parametrize("value, stated, status", [(0.02, 0.0, DIFFERS), (0.0, 0.0, EXACT), (0.23, 0.2, DIFFERS)])
def test_other_numbers_must_be_equal(value, stated, status):
    assert run.agreement([value], [stated], 0) == status


@pytest.mark.parametrize(
    "changes, value, status",
    [
        ({"stated": 3}, 3, EXACT),
        ({"stated": 3, "source": "secondary"}, 3, UNVERIFIED),
        ({"stated": 3, "source": "memory"}, 4, DIFFERS),
        ({"stated": 20, "source": "course", "tolerance": 0.1}, 21, EXACT),
        ({"stated": 20, "source": "course", "tolerance": 0.1}, 23, DIFFERS),
        ({"kind": "accuracy", "stated": 81.3}, "1x1", NOT_RUN),
        ({"kind": "trend"}, verdicts.AGREES, SCALED),
        ({"kind": "trend"}, verdicts.DISAGREES, DIFFERS),
        ({"kind": "trend"}, verdicts.UNDECIDED, UNDECIDED),
        ({"kind": "trend"}, verdicts.NOT_RUN, NOT_RUN),
    ],
)
def test_status_by_kind_and_source(changes, value, status):
    assert run.judged(claim(**changes), value) == status


def test_a_check_that_cannot_run_says_why():
    outcome = run.run_claim(claim(check="frames_per_second", arguments={"how": "performer"}))
    assert outcome.status == NOT_RUN and outcome.problem.startswith("Performer is not built")


def test_a_status_that_no_longer_holds_is_told_in_one_sentence():
    wrong = run.run_claim(claim(arguments={"model": "swin_mini", "at": "patch_embed"}, stated=[16, 16, 33]))
    said = run.stale(wrong, {})
    assert said == "one: its file says 'exact', the run gives 'differs'; found [16, 16, 32], stated [16, 16, 33]."
    there_is_none = run.run_claim(claim(arguments={"model": "swin_mini", "at": "patches"}))
    assert "nothing passes a module 'patches' of swin_mini" in run.stale(there_is_none, {})
    recorded = run.stale(run.Outcome(claim(status=None), EXACT, 3), {"one": {"status": WITHIN}})
    assert recorded == "one: results/claims.json says 'within tolerance', the run gives 'exact'."
    assert "no file explains why" in run.stale(run.Outcome(claim(status=None), DIFFERS, 3), {})
    assert run.stale(run.Outcome(claim(), EXACT, 3), {"one": {"status": EXACT}}) == ""


def test_two_counters_that_disagree_refute_a_cost(monkeypatch):
    cost = claim(check="gmacs", arguments={"model": "swin_mini"}, stated=1.0)
    running.forget()
    assert run.run_claim(cost).problem == ""
    running.forget()
    monkeypatch.setattr(running, "macs_of_attention", lambda q, k, v: 0)
    outcome = run.run_claim(cost)
    running.forget()
    assert outcome.status == DIFFERS and re.match(
        "counted from shapes [\\d,]+ MACs, by PyTorch's counter", outcome.problem
    )


def test_equal_blocks_that_are_computed_once_make_the_whole():
    from vt_course.models.cost import count_macs

    for name in ("swin_mini", "video_swin_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini"):
        seen = running.passed(name)
        assert seen.macs == seen.counted == count_macs(running.build(name), (1, *ZOO[name].input)), name


QUICK = [each for each in TOLD if each.check in ("reach", "step_reach", "class_token_hears", "view_starts", "trend")]


@pytest.mark.parametrize("one", QUICK, ids=lambda each: each.id)
def test_claims_hold(one):
    """A part of them; `.ci/more` runs all."""
    recorded = {each["id"]: each for each in RECORDED}
    assert run.stale(run.run_claim(one), recorded) == ""


# ---------------------------------------------------------------- effects of deviations


def test_every_way_and_most_deviations_have_an_effect_that_is_measured():
    measured = [each for each in TOLD if each.check.startswith("effect")]
    assert {each.arguments["of"] for each in measured if each.check == "effect"} == set(effects.WAYS)
    assert len(measured) >= 20 and {each.kind for each in measured} == {"deviation"}
    assert {each.source for each in measured} == {"course"}


@pytest.mark.parametrize("of", effects.WAYS)
def test_the_other_way_changes_the_scores_and_is_undone(monkeypatch, of):
    """On four clips: the claims are about 64."""
    monkeypatch.setattr(effects, "CLIPS", 4 if effects.WAYS[of][0] != "swin_mini" else 8)
    for kept in (effects.films, effects.views):
        kept.cache_clear()
    model, shown, _ = effects.WAYS[of]
    running.forget()
    before = effects.logits_of(model, None, shown)
    answers, largest = effects.effect(model, of)
    assert (largest > 0) == (of != "mask_of_minus_infinity") and 0 <= answers <= 4
    assert torch.equal(effects.logits_of(model, None, shown), before)
    running.forget()
    for kept in (effects.films, effects.views):
        kept.cache_clear()


def test_a_way_of_another_model_is_refused():
    with pytest.raises(ValueError, match="class_token_in_time is a way of timesformer_mini"):
        effects.effect("mvit_mini", "class_token_in_time")


# ---------------------------------------------------------------- mutants


def test_every_mutant_names_claims_that_exist():
    assert len(mutants.MUTANTS) >= 25
    for mutant in mutants.MUTANTS.values():
        assert mutant.kills and set(mutant.papers) <= set(mutants.FAMILY), mutant.name
        for pattern in mutant.kills:
            named = [id for id in BY_ID if mutants.fnmatch.fnmatchcase(id, pattern)]
            assert named, (mutant.name, pattern)
            assert set(named) <= {each.id for each in mutants.concerned(mutant, TOLD)}, (mutant.name, pattern)
    assert {paper for mutant in mutants.MUTANTS.values() for paper in mutant.papers} == set(mutants.FAMILY)


@pytest.mark.parametrize("name", ["no_shift", "merging_order", "no_dpe", "class_token_in_time", "mvit_epsilon"])
def test_a_mutant_turns_its_claims_red_and_is_undone(name):
    mutant = mutants.MUTANTS[name]
    quick = [
        each
        for each in TOLD
        if each.check.startswith(("swin_eq", "patch_m", "reach", "timesformer_b", "uniformer_l", "pooling_b", "groups"))
    ]
    before = {owner: dict(vars(owner)) for owner in (swin, timesformer, swin.PatchMerging, timesformer.DividedBlock)}
    row = mutants.run_mutant(mutant, quick, {each["id"]: each for each in RECORDED})
    assert [id for id in row["survived"] if id in {each.id for each in quick}] == [] and row["killed"]
    assert all(vars(owner)[key] is value for owner, names in before.items() for key, value in names.items())
    now = {id: run.run_claim(BY_ID[id]).status for id in row["killed"]}
    assert now == {each["id"]: each["status"] for each in RECORDED if each["id"] in now}


def test_a_run_of_mutants_is_recorded_and_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "mutants.json"
    mutant = mutants.MUTANTS["no_dpe"]
    row = dict(
        mutant="no_dpe", of=mutants.digest(mutant, TOLD), ran=9, killed=["uf-dpe-kernel"], survived=[], counts=True
    )
    mutants.write_rows(out, TOLD, [row, {**row, "mutant": "no_mask", "of": "stale"}])
    assert mutants.read_rows(out, TOLD) == {"no_dpe": row}  # the other one stood for other claims
    file = json.loads(out.read_text(encoding="utf-8"))
    assert "uf-dpe-kernel" not in file["never_killed"] and 0 < file["share"] < 0.01
    assert [each["mutant"] for each in file["mutants"]] == ["no_mask", "no_dpe"]
    made = []
    monkeypatch.setattr(mutants, "run_mutant", lambda mutant, *rest: made.append(mutant.name) or row)
    assert list(mutants.run_mutants(["no_dpe"], TOLD, {}, mutants.read_rows(out, TOLD))) == [row] and made == []
    assert mutants.read_rows(tmp_path / "none.json", TOLD) == {}


def test_the_recorded_run_of_all_mutants_is_that_of_these_claims():
    """If not: `vt-course claims --mutants --out results/mutants.json` makes what is missing."""
    path = repo_root() / "results" / "mutants.json"
    rows, file = mutants.read_rows(path, TOLD), json.loads(path.read_text(encoding="utf-8"))
    assert set(rows) == set(mutants.MUTANTS) and [row["mutant"] for row in rows.values() if row["survived"]] == []
    assert file["never_killed"] == mutants.never_killed(TOLD, list(rows.values()))
    share = mutants.share_killed(TOLD, list(rows.values()))
    assert file["share"] == pytest.approx(share, abs=1e-4) and share > 0.95


def test_a_mutant_that_turns_too_many_red_counts_for_none():
    rows = [{"killed": [TOLD[0].id], "counts": False}]
    assert TOLD[0].id in mutants.never_killed(TOLD, rows)
    assert TOLD[0].id not in mutants.never_killed(TOLD, [{**rows[0], "counts": True}])


def test_samples_take_their_turn():
    names = list(mutants.MUTANTS)
    turns = [mutants.sample(names, 12, turn) for turn in range(len(names))]
    assert all(len(turn) == 12 for turn in turns) and {name for turn in turns[:8] for name in turn} == set(names)


def test_a_claim_that_differs_turns_red_by_another_number():
    outcome = run.Outcome(claim(why="so"), DIFFERS, 205.0)
    assert not mutants.red(outcome, {"status": DIFFERS, "found": 205.0})
    assert mutants.red(outcome, {"status": DIFFERS, "found": 206.0})
    assert mutants.red(outcome, {"status": EXACT, "found": 205.0})


# ---------------------------------------------------------------- the command


def test_the_list_and_its_filters():
    assert len(run_json("claims")) == len(TOLD)
    found = run_json("claims", "--paper", "Swin", "--kind", "cost", "--status", "exact")
    assert found and {(each["paper"], each["kind"], each["status"]) for each in found} == {("Swin", "cost", "exact")}
    code, out, err = command("claims", "--kind", "parity")
    assert (code, err) == (0, "") and out.splitlines()[-1].endswith("exact")
    assert run_json("claims", "--explain", "swin-token-48")["found"] == 48
    code, out, err = command("claims", "--explain", "swin-token-48")
    assert (code, err) == (0, "") and re.search(r"^stated: +48$", out, re.MULTILINE)


def test_running_some_of_them(capsys):
    found = run_json("claims", "--run", "--paper", "Swin", "--kind", "literature")
    assert found and {each["status"] for each in found} == {EXACT}


def test_a_run_of_some_writes_the_others_as_they_were(tmp_path, monkeypatch):
    out = tmp_path / "claims.json"
    assert command("claims", "--run", "--paper", "Swin", "--kind", "literature", "--out", out)[0] == 0
    assert json.loads(out.read_text(encoding="utf-8"))["claims"] == RECORDED
    monkeypatch.setattr(run, "read_recorded", lambda: {})
    said = command("claims", "--run", "--paper", "Swin", "--kind", "literature", "--out", out)[2]
    assert "claims were never run, the first is" in said and said.count("\n") == 1


def test_a_run_that_gives_another_status_exits_with_1(monkeypatch):
    monkeypatch.setitem(running.CHECKS, "windows_computed", lambda **arguments: 5)
    code, out, err = command("claims", "--run", "--paper", "Swin", "--kind", "literature")
    assert code == 1 and "swin-shift-computes-no-more: its file says 'exact', the run gives 'differs'" in err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--kind", "structur"], "no claim has the kind 'structur'; did you mean structure?"),
        (["--paper", "swin"], "no claim has the paper 'swin'; did you mean Swin?"),
        (["--status", "wrong"], "no claim has the status 'wrong'"),
        (["--explain", "swin-tokn-48"], "there is no claim 'swin-tokn-48'; did you mean swin-token-48?"),
        (["--out", "x.json"], "--out needs --run"),
        (["--sample", "3"], "--sample needs --mutants"),
        (["--mutants", "--kind", "cost"], "--mutants takes --paper only"),
    ],
    ids=str,
)
def test_what_the_command_refuses(words, said):
    assert said in refused("claims", *words)


def test_the_file_keeps_to_its_schema():
    folder = repo_root() / "results"
    schema = json.loads((folder / "claims.schema.json").read_text(encoding="utf-8"))
    file = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(file, schema, jsonschema.Draft202012Validator)
    claim = schema["$defs"]["claim"]["properties"]
    assert claim["kind"]["enum"] == list(claims.KINDS) and claim["source"]["enum"] == list(claims.SOURCES)
    assert claim["status"]["enum"] == list(claims.STATUSES) == list(schema["properties"]["counts"]["properties"])
    file["claims"][0]["stat"] = file["claims"][0].pop("status")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, schema, jsonschema.Draft202012Validator)


def test_the_file_has_the_documented_keys():
    page = (repo_root() / "docs" / "researchers.md").read_text(encoding="utf-8")
    section = page.partition("## The ledger")[2].partition("\n## ")[0]
    for key in RECORDED[0]:
        assert f"`{key}`" in section, key
    file = json.loads((repo_root() / "results" / "claims.json").read_text(encoding="utf-8"))
    assert file["schema"] == run.SCHEMA and file["counts"] == run.counts(RECORDED) and torch.is_grad_enabled()
