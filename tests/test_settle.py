"""One recipe of a recipe and the choices beside it: what goes before what, what is kept, what each step is told of it."""

import copy

import pytest
import small

from slimrec.config import Recipe, parse
from slimrec.errors import ConfigError
from slimrec.stages.settle import CHOICES, sections, settle

CHOSEN = {
    "allowed_auc_loss": ("0.01", 0.01),
    "approval": ("manual", "manual"),
    "audit_date": ("auto", "auto"),
    "backbone": ("deepfm", "deepfm"),
    "keep_share": ("0.5", 0.5),
    "method": ("permutation", "permutation"),
    "registered_model": ("mine", "mine"),
    "score_threshold": ("0.25", 0.25),
    "source": ("planted:rows=10,seed=1", "planted:rows=10,seed=1"),
    "subset_share": (" 0.1 ", 0.1),
}


def changed(**sections_) -> dict:
    return {**small.RECIPE, **{name: {**small.RECIPE[name], **values} for name, values in sections_.items()}}


def at(recipe: Recipe, key: str):
    value = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def test_no_choice_leaves_the_recipe_as_it_is():
    before = copy.deepcopy(small.RECIPE)
    assert settle(small.RECIPE, dict.fromkeys(CHOICES, "")) == parse(Recipe, small.RECIPE)
    settle(small.RECIPE, {name: text for name, (text, _) in CHOSEN.items() if name != "keep_share"})
    assert small.RECIPE == before


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_goes_before_the_recipe(name):
    text, value = CHOSEN[name]
    settled = settle(small.RECIPE, {name: text})
    assert at(settled, CHOICES[name]) == value != at(parse(Recipe, small.RECIPE), CHOICES[name])


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_taken_where_the_recipe_has_no_such_section(name):
    bare = {"ingest": {"source": "planted:rows=10,seed=0"}, "pretrain": {"method": "random"}}
    assert at(settle(bare, {name: CHOSEN[name][0]}), CHOICES[name]) == CHOSEN[name][1]


@pytest.mark.parametrize("budget", [{"threshold": 0.5}, {"fields": 3}, {"max_bytes": 1000}])
def test_a_chosen_budget_takes_the_place_of_the_recipes_whatever_that_is(budget):
    settled = settle(changed(prune={"budget": budget}), {"keep_share": "0.5"})
    assert settled.prune.budget.model_dump(exclude_none=True) == {"keep": 0.5}


def test_two_chosen_budgets_are_refused():
    with pytest.raises(ConfigError, match="one budget at most, got keep and threshold"):
        settle(small.RECIPE, {"keep_share": "0.5", "score_threshold": "0.5"})


def test_a_chosen_share_takes_the_place_of_a_number_of_rows():
    settled = settle({**small.RECIPE, "sample": {"rows": 100, "seed": 3}}, {"subset_share": "0.2"})
    assert (settled.sample.fraction, settled.sample.rows, settled.sample.seed) == (0.2, None, 3)


def test_options_stay_where_the_choice_is_the_recipes_own_and_go_with_what_is_replaced():
    recipe = changed(pretrain={"method": "permutation", "options": {"repeats": 2}})
    same = settle(recipe, {"method": "permutation", "backbone": "widedeep"}).pretrain
    assert same.options == {"repeats": 2} and same.model.options == {"hidden": [8]}
    other = settle(recipe, {"method": "random", "backbone": "mlp"}).pretrain
    assert (other.method, other.options, other.model.backbone, other.model.options) == ("random", {}, "mlp", {})
    assert other.model.embedding_dim == 4


def test_whole_numbers_that_a_server_made_floats_are_integers_again():
    recipe = changed(pretrain={"model": {"backbone": "widedeep", "options": {"hidden": [8.0, 4.0]}}})
    hidden = settle(recipe, {}).pretrain.model.options["hidden"]
    assert hidden == [8, 4] and all(isinstance(width, int) for width in hidden)


@pytest.mark.parametrize(
    ("recipe", "choices", "words"),
    [
        ({}, {}, "Recipe needs 'ingest'"),
        (small.RECIPE, {"keep_share": "half"}, "prune.budget.keep: .* got 'half'"),
        (small.RECIPE, {"method": "laep"}, "no method 'laep'"),
        (small.RECIPE, {"audit_date": "yesterday"}, "give auto, or the day as YYYY-MM-DD, got 'yesterday'"),
        (small.RECIPE, {"audit_date": "2026-13-01"}, "give auto, or the day as YYYY-MM-DD, got '2026-13-01'"),
        (small.RECIPE, {"audit_date": "20261120"}, "give auto, or the day as YYYY-MM-DD, got '20261120'"),
        (small.RECIPE, {"audit_date": "[[ScheduledTime.2006-01-02]]"}, "does not replace macros in it: give auto"),
        (small.RECIPE, {"mehtod": "random"}, "no choice 'mehtod'; did you mean 'method'"),
        (small.RECIPE, {"source": "s3://logs/day"}, "needs 'fields'"),
        ({"ingest": {"source": ""}}, {}, "ingest.source: .* at least 1 character"),
        ({**small.RECIPE, "finetune": {"train": {"seed": -1}}}, {}, "finetune.train.seed: .* or equal to 0, got -1"),
        ({**small.RECIPE, "sample": {"seed": 2**70}}, {}, "sample.seed: Input should be less than"),
        ({**small.RECIPE, "prune": "half"}, {"keep_share": "0.5"}, "the recipe's 'prune' is 'half', where a section"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(recipe, choices, words):
    with pytest.raises(ConfigError, match=words):
        settle(recipe, choices)


@pytest.mark.parametrize("word", ["None", " null "])
def test_the_word_for_nothing_is_no_name_of_a_model(word):
    """As it comes where a program passed on what it did not have."""
    with pytest.raises(ConfigError, match="'registered_model' is the word (None|null); leave it empty"):
        settle(small.RECIPE, {"registered_model": word})


def test_a_step_is_told_its_section_as_it_was_written_and_without_the_day():
    told = sections(parse(Recipe, small.RECIPE))
    assert told["pretrain"] == small.RECIPE["pretrain"] and told["prune"] == small.RECIPE["prune"]
    assert told["ingest"] == {key: small.RECIPE["ingest"][key] for key in ("source", "split")}
    assert told["evaluate"] == {**small.RECIPE["evaluate"], "champion": "small"}


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ({"allowed_auc_loss": "0.1"}, {"evaluate"}),
        ({"audit_date": "2026-01-01"}, set()),
        ({"keep_share": "0.5"}, {"prune"}),
        ({"method": "permutation"}, {"pretrain"}),
        ({"registered_model": "mine"}, {"evaluate", "register"}),
        ({"subset_share": "0.1"}, {"sample"}),
    ],
)  # fmt: skip
def test_a_choice_reaches_the_steps_that_it_is_about_and_leaves_the_caches_of_the_others(choice, steps):
    before, after = sections(settle(small.RECIPE, {})), sections(settle(small.RECIPE, choice))
    assert {name for name in before if before[name] != after[name]} == steps


def full_model(**changes) -> dict:
    return sections(parse(Recipe, {**small.RECIPE, **changes}))["baseline"]


def test_the_full_model_trains_as_the_slim_one_does_unless_the_recipe_says_otherwise():
    searched = {name: small.RECIPE["pretrain"][name] for name in ("model", "train")}
    assert full_model() == {**searched, "after": small.RECIPE["finetune"]}
    warm = full_model(finetune={"train": {"epochs": 5}})
    assert warm["train"] == small.RECIPE["pretrain"]["train"] and warm["after"] == {"train": {"epochs": 5}}
    fresh = full_model(finetune={"start": "fresh", "train": {"epochs": 5}})
    assert fresh["train"]["epochs"] == 5 and fresh["after"] == {"start": "fresh", "train": {"epochs": 5}}
    own = full_model(finetune={"train": {"epochs": 5}}, baseline={"epochs": 7})
    assert own["after"] == {"start": "fresh", "train": {"epochs": 7}}
