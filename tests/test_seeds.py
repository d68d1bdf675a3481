"""Training noise: bounds that hold for any seed, told by simulated worlds with seeds of known effect; and retrains end to end."""

import json

import numpy as np
import pytest
import small
from scipy import stats
from test_fairness import AFTER, MODEL, SEARCH

from slimrec.artifacts import digest, kept, read_manifest
from slimrec.artifacts import verify as check
from slimrec.config import EvaluateConfig, FinetuneConfig, PretrainConfig, PruneConfig, Recipe, parse
from slimrec.errors import ConfigError, InputError
from slimrec.registry import bundle
from slimrec.stages import evaluate, execute, finetune, pretrain, prune
from slimrec.stages.settle import sections, settle
from slimrec.track import Tracker
from slimrec.training import again
from slimrec.verdict import certify, losses, seeds

APART = 1.2  # of the classes, in deviations of the score of a network without noise
_Z, _MASS = np.polynomial.hermite_e.hermegauss(60)


def auc(noise):
    """Of a score that tells the classes apart by APART, with so much noise."""
    return stats.norm.cdf(APART / np.sqrt(2 * (1 + np.square(noise))))


def lottery(random, spread, shape=()):
    """How noisy the networks of some seeds are."""
    return 0.4 * np.exp(spread * random.normal(size=shape))


def truth(spread, worse):
    """What the slim model's AUC is expected to be more than the full one's, over seeds."""
    noise = 0.4 * np.exp(spread * _Z)
    return float(((auc(worse * noise) - auc(noise)) * _MASS).sum() / _MASS.sum())


def world(random, trainings, spread, worse, rows=300):
    """Labels, and scores (n, 2, K) of full and slim networks of as many seeds."""
    label = (random.random(rows) < 0.4).astype(int)
    signal = APART * label + random.normal(size=rows)
    noise = lottery(random, spread, (2, trainings)) * np.array([[1.0], [worse]])
    return label, signal[:, None, None] + noise * random.normal(size=(rows, 2, trainings))


def bound(label, scores, trainings, confidence=0.95):
    first, more = scores[:, :, 0], None if trainings == 1 else scores[:, :, 1:trainings]
    return certify.conclude(certify.gather(label, *first.T, retrained=more), confidence)


@pytest.mark.battery
@pytest.mark.parametrize(("trainings", "spread"), [(2, 0.6), (3, 0.6), (5, 0.6), (3, 0.1)])
def test_bounds_over_several_trainings_hold_for_any_seed(trainings, spread):
    worlds, worse = 600, 1.3
    expected, wrong = truth(spread, worse), np.zeros((2, 2))
    for seed in range(worlds):
        label, scores = world(np.random.default_rng(seed), trainings, spread, worse)
        for i, count in enumerate((1, trainings)):
            found = bound(label, scores, count)
            wrong[i] += found.low > expected, found.high < expected
    error = stats.binom.ppf(0.999, worlds, 0.05)
    assert (wrong[1] <= error).all(), wrong
    if spread > 0.5:
        assert (wrong[0] > 2 * error).all(), wrong  # of the networks at hand, at 95 %


def test_a_bound_is_that_of_rows_where_seeds_agree_and_that_of_student_where_rows_tell_all():
    assert seeds.widen([], 0.1, 0.2, 0.95) == (0.0, (0.1, 0.2))
    assert seeds.widen([0.3] * 3, 0.1, 0.2, 0.95) == (0.0, (0.1, 0.2))
    found = [0.01, 0.02, 0.06, 0.03]
    error, (down, up) = seeds.widen(found, 0.0, 0.0, 0.95)
    expected = stats.ttest_1samp(found, 0.0).confidence_interval(0.9)
    assert error == pytest.approx(stats.sem(found))
    assert (np.mean(found) - down, np.mean(found) + up) == pytest.approx(tuple(expected))
    assert seeds.widen(found, 0.03, 0.04, 0.95)[1] == pytest.approx((np.hypot(down, 0.03), np.hypot(up, 0.04)))


def test_what_is_judged_are_means_over_trainings_of_all_losses():
    label, scores = world(np.random.default_rng(0), 3, 0.3, 1.2)
    user = np.arange(len(label)) // 4
    rows = losses.Rows(label, *scores[:, :, 0].T, np.ones(len(label)), user, None, scores[:, :, 1:])
    single = [
        losses.conclude(losses.gather(rows._replace(full=full, slim=slim, retrained=None), {}, 3, []), 0.95)
        for full, slim in np.moveaxis(scores, 0, -1).swapaxes(0, 1)
    ]
    for each, *alone in zip(losses.conclude(losses.gather(rows, {}, 3, []), 0.95), *single, strict=True):
        for name in ("full", "slim"):
            assert each[name] == pytest.approx(np.mean([one[name] for one in alone]))
    found = certify.gather(label, *scores[:, :, 0].T, None, user, retrained=scores[:, :, 1:])
    told = [certify.compare(label, *pair, None, user).difference for pair in np.moveaxis(scores, 0, -1).swapaxes(0, 1)]
    assert found.differences == pytest.approx(told)
    assert certify.conclude(found, 0.95).difference == pytest.approx(np.mean(told))


def test_two_retrains_warn_where_seeds_disagree_and_seldom_where_only_rows_do():
    alarms = {}
    for spread in (0.0, 0.8):
        made = (world(np.random.default_rng(seed), 3, spread, 1.2, rows=2000) for seed in range(200))
        found = (certify.gather(label, *scores[:, :, 0].T, retrained=scores[:, :, 1:]) for label, scores in made)
        told = [seeds.facts(each.differences, each.mixed, 0.001) for each in found]
        alarms[spread] = sum(each["disagree"] for each in told)
        assert all(
            seeds.warned(each).startswith("Trainings from other seeds disagree") == each["disagree"] for each in told
        )
    assert alarms[0.0] <= stats.binom.ppf(0.999, 200, 0.05) and alarms[0.8] > 180
    assert not seeds.facts([0.1, 0.1004], 1e-12, 0.001)["disagree"]  # less than what is allowed


def test_whether_seeds_disagree_is_cochrans_question_at_one_in_twenty_and_by_more_than_is_allowed():
    differences = [0.01, 0.02, 0.06, 0.03]
    apart = np.var(differences) * 4
    for share, disagree in ((0.06, False), (0.04, True)):
        mixed = apart / stats.chi2.isf(share, 3)
        assert seeds.facts(differences, mixed, 0.049)["disagree"] is disagree, share
        assert not seeds.facts(differences, mixed, 0.051)["disagree"]
    assert not seeds.facts([0.25, 0.5], 1e-12, 0.25)["disagree"] and seeds.facts([0.25, 0.5], 1e-12, 0.24)["disagree"]
    assert not seeds.facts([-0.25, -0.5], 1e-12, 0.26)["disagree"] and seeds.facts([-0.5, 0.25], 1e-12, 0.7)["disagree"]
    assert seeds.facts([0.25, 0.5], 0.0, 0.1)["disagree"] and not seeds.facts([0.5, 0.5], 0.0, 0.0)["disagree"]
    assert (
        seeds.facts((), 0.0, 0.0) == {"differences": [], "disagree": False}
        and seeds.warned(seeds.facts((), 0, 0)) == ""
    )


def test_what_rows_do_to_each_training_alone_is_their_variance_around_what_they_do_to_all():
    sums = np.random.default_rng(0).normal(size=(3, 50))
    assert seeds.mixed(sums) == pytest.approx(sums.var(axis=0, ddof=1).sum()) and seeds.mixed(sums[[0, 0]]) == 0


def test_trainings_are_told_from_the_least_change_to_the_largest_and_each_in_a_warning():
    found = {"differences": [0.002, -0.001, 0.003], "disagree": True}
    assert seeds.told(found).endswith(": 3 trainings of both changed the AUC by \u22120.00100 to +0.00300")
    assert seeds.warned(found).endswith("the AUC changes by +0.00200, \u22120.00100, +0.00300")
    assert seeds.told({"differences": []}).startswith("of these two trained networks: ")


def test_where_trainings_differ_too_much_no_number_of_rows_is_promised():
    label, scores = world(np.random.default_rng(3), 3, 0.8, 1.0)
    found = bound(label, scores, 3)
    assert certify.rows_needed(found, 0.001) is None
    assert "raise evaluate.retrains" in certify.verdict(found, 0.001)[1]
    assert ", whatever the seed of the training, the AUC" in certify.verdict(found, 0.001)[1]


@pytest.fixture(scope="module")
def retrained(tmp_path_factory):
    """A cut that drops nothing, the full model, and two retrains of each."""
    folder = tmp_path_factory.mktemp("retrained")
    small.ingest_rows(folder, 2000, gate=0.1)
    paths = {name: folder / name for name in ("gated", "selection", "slim")}
    pretrain.run(PretrainConfig(model=MODEL, train=SEARCH), Tracker(), folder / "dataset", paths["gated"])
    prune.run(PruneConfig(), Tracker(), **paths)
    tuning = FinetuneConfig(train=AFTER, retrains=2, before=SEARCH)
    finetune.run(
        tuning, Tracker(), dataset=folder / "dataset", **paths, tuned=folder / "tuned", retrained=folder / "slims"
    )
    after = tuning.model_copy(update={"retrains": 0, "before": None})
    full = PretrainConfig(model=MODEL, train=SEARCH, after=after, retrains=2)
    pretrain.run(full, Tracker(), folder / "dataset", folder / "full", retrained=folder / "fulls")
    return folder


def judge(folder, report, **config):
    paths = {"dataset": folder / "dataset", "full": folder / "full", "slim": folder / "tuned"}
    paths |= {"selection": folder / "selection", "slim_retrained": folder / "slims", "full_retrained": folder / "fulls"}
    given = {
        "latency_repeats": 1,
        "unproven_slices": "remark",
        "slices": ["device"],
        "allowed_slice_loss": 0.9,
        "allowed_auc_loss": 0.2,
        **config,
    }
    evaluate.run(EvaluateConfig(**given), Tracker(), **paths, report=report)
    return json.loads((report / "report.json").read_text()), (report / "report.md").read_text()


def test_a_cut_that_drops_nothing_retrains_to_the_bit_of_the_full_model_and_otherwise_than_before(retrained):
    slim, full = (np.load(retrained / name / again.SCORES) for name in ("slims", "fulls"))
    assert (slim == full).all() and slim.shape[0] == 2 and slim.dtype == np.float32
    assert np.abs(slim[0] - slim[1]).max() > 0.01 and check(retrained / "slims", "retrained")["count"] == 2


def test_an_audit_says_which_statement_it_makes_and_its_bundle_replays_it(retrained, tmp_path):
    facts, page = judge(retrained, tmp_path / "report", retrains=2)
    assert facts["retrains"] == {"differences": [0.0] * 3, "disagree": False} and facts["verdict"] == "certified", (
        facts["reason"]
    )
    assert "The bound is of networks trained from any seed: 3 trainings of both" in page
    assert ", whatever the seed of the training, the AUC" in facts["reason"] and "AUC, mean of 3 trainings" in page
    single, page = judge(retrained, tmp_path / "single")
    assert "The bound is of these two trained networks" in page and "whatever the seed" not in single["reason"]
    paths = {"slim": retrained / "tuned", "report": tmp_path / "report", "selection": retrained / "selection"}
    file = bundle.write(tmp_path / "bundle", **paths, registry={"model": "ctr", "registered": False})
    assert bundle.verify(file, unsigned=True).reason == facts["reason"]


def test_seeds_that_disagree_are_said_beside_the_verdict(retrained, tmp_path):
    folder = tmp_path / "noisy"
    scores = np.load(retrained / "slims" / again.SCORES)
    scores[1] += 3 * np.random.default_rng(0).normal(size=scores.shape[1]).astype(np.float32)
    facts = {name: read_manifest(retrained / "slims")[name] for name in ("dataset", "selection")}
    again.keep(folder, list(scores), **facts)
    paths = {"dataset": retrained / "dataset", "full": retrained / "full", "slim": retrained / "tuned"}
    paths |= {"selection": retrained / "selection", "slim_retrained": folder, "full_retrained": retrained / "fulls"}
    config = EvaluateConfig(latency_repeats=1, retrains=2)
    evaluate.run(config, Tracker(), **paths, report=tmp_path / "report")
    for name in ("report.md", "report.html"):
        assert "Trainings from other seeds disagree by more than is allowed" in (tmp_path / "report" / name).read_text()


def test_scores_of_another_number_or_of_another_cut_are_refused(retrained, tmp_path):
    with pytest.raises(InputError, match="evaluate.retrains is 3, and .* holds 2 trainings"):
        judge(retrained, tmp_path / "report", retrains=3)
    scores = list(np.load(retrained / "slims" / again.SCORES))
    again.keep(tmp_path / "strange", scores, dataset=read_manifest(retrained / "slims")["dataset"], selection="0")
    with pytest.raises(InputError, match="train again"):
        again.read(tmp_path / "strange", 2, range(scores[0].size), {"selection": "1"})
    with pytest.raises(InputError, match="no folder"):
        again.read(None, 2, range(5), {})
    assert not (tmp_path / "report").exists()


def test_scores_that_were_kept_come_back_with_the_model(retrained, tmp_path):
    (tmp_path / "workspace" / kept.KEPT).mkdir(parents=True)
    reads = {name: str(retrained / name) for name in ("dataset", "gated", "selection", "slim")}
    for turn in ("first", "again"):
        makes = {name: str(tmp_path / turn / name) for name in ("tuned", "retrained")}
        config = {"train": {"epochs": 1, "batch_size": 512, "device": "cpu"}, "retrains": 1}
        execute("finetune", config, workspace=str(tmp_path / "workspace"), **reads, **makes)
    assert digest(tmp_path / "first" / "retrained") == digest(tmp_path / "again" / "retrained")


def test_both_trainings_are_told_of_retrains_and_no_cache_without_them_changes():
    before, after = (sections(settle({**small.RECIPE, "evaluate": each}, {})) for each in ({}, {"retrains": 2}))
    assert {name for name in before if before[name] != after[name]} == {"baseline", "finetune", "evaluate"}
    assert after["finetune"]["retrains"] == after["baseline"]["retrains"] == 2
    assert after["finetune"]["before"] == small.RECIPE["pretrain"]["train"]
    fresh = {**small.RECIPE, "finetune": {"start": "fresh"}, "evaluate": {"retrains": 2}}
    assert "before" not in sections(settle(fresh, {}))["finetune"]
    with pytest.raises(ConfigError, match=r"set evaluate\.retrains"):
        parse(Recipe, {**small.RECIPE, "finetune": {"retrains": 2}})
