"""The client: which requests reach a Kubeflow Pipelines server, in which order, and what is said when one is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import here
import pytest
import yaml
from services import HANG
from slimrec.pipelines import cluster
from slimrec.pipelines.audit import describe
from slimrec.pipelines.client import Cluster, program
from slimrec.pipelines.connection import address, token
from slimrec.pipelines.cron import check

from slimrec.config import read_recipe
from slimrec.errors import ConfigError, ConflictError, TransientError
from tests.kubeflow import BASE, OBJECT_NAME, Kubeflow, serving

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "pipelines" / "recipes" / "demo.yaml"
IMAGE = f"registry.example/slimrec@sha256:{'a' * 64}"
WEEKLY = "0 0 3 * * 1"


@pytest.fixture
def kubeflow():
    with serving(Kubeflow()) as server:
        yield server


@pytest.fixture(scope="module")
def sent():
    return program("demo", read_recipe(RECIPE), "S", allow_tag=True)


def pipelines(*words, **environment: str) -> subprocess.CompletedProcess:
    """`python -m pipelines ...` as a person types it, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KFP", "SLIMREC"))}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, words)],
        cwd=ROOT, env={**kept, "SLIMREC_IMAGE": IMAGE, "COLUMNS": "200", **environment},
        capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip


@pytest.fixture
def typed(monkeypatch):
    """The same in this process, where the image is named by its digest, too."""
    for name in ("IMAGE", "GPU_IMAGE"):
        monkeypatch.setattr(cluster, name, IMAGE)
    return here.typed


def file_in(body: str) -> list[dict]:
    """The YAML documents of a multipart upload with one file in it."""
    (content,) = re.findall(r'name="uploadfile".*?\n\n(.*)\n--[0-9a-f]+--', body.replace("\r\n", "\n"), re.DOTALL)
    return list(yaml.safe_load_all(content))


def test_submit_makes_pipeline_version_experiment_and_run(kubeflow):
    done = pipelines("submit", RECIPE, "--host", kubeflow.url)
    assert done.returncode == 0, done.stderr
    assert kubeflow.changes() == [
        ("POST", "/pipelines"), ("POST", "/pipelines/upload_version"), ("POST", "/experiments"), ("POST", "/runs"),
    ]  # fmt: skip
    tables = {kind: rows[0] for kind, rows in kubeflow.tables.items() if rows}
    ((query, body),) = kubeflow.sent("POST", "/pipelines")
    assert body.pop("description") and body == {"name": "slimrec-audit", "display_name": "slimrec-audit"}
    ((query, body),) = kubeflow.sent("POST", "/pipelines/upload_version")
    assert query["pipelineid"] == tables["pipelines"]["pipeline_id"]
    assert re.fullmatch(r"demo-s-[0-9a-f]{12}", query["name"])
    spec, platform = file_in(body)
    assert spec["pipelineInfo"]["name"] == "slimrec-audit" and "kubernetes" in platform["platforms"]
    assert {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()} == {IMAGE}
    ((query, body),) = kubeflow.sent("POST", "/runs")
    parameters = body["runtime_config"].pop("parameters")
    assert query == {} and body == {
        "display_name": "demo",
        "experiment_id": tables["experiments"]["experiment_id"],
        "pipeline_version_reference": {
            "pipeline_id": tables["pipelines"]["pipeline_id"],
            "pipeline_version_id": tables["versions"]["pipeline_version_id"],
        },
        "runtime_config": {},
        "service_account": "slimrec-pipeline",
    }
    assert parameters["recipe"]["ingest"]["source"] == "planted:rows=300000,seed=0"
    assert set(parameters) <= set(spec["root"]["inputDefinitions"]["parameters"])
    assert done.stdout == f"{tables['runs']['run_id']}\n"


def test_what_is_there_is_used_again_and_found_on_any_page(kubeflow, sent):
    kubeflow.tables["experiments"] += [{"display_name": "slimrec", "experiment_id": "e"}]
    kubeflow.tables["pipelines"] += [{"display_name": "slimrec-audit", "pipeline_id": "p"}]
    kubeflow.tables["versions"] += [{"display_name": sent.name, "pipeline_version_id": "v"}]
    Cluster(kubeflow.url).submit(sent, "again")
    assert kubeflow.changes() == [("POST", "/runs")]
    ((_, body),) = kubeflow.sent("POST", "/runs")
    assert body["pipeline_version_reference"] == {"pipeline_id": "p", "pipeline_version_id": "v"}
    for query, _ in kubeflow.sent("GET", "/pipelines/p/versions"):
        told = {"operation": "EQUALS", "key": "display_name", "stringValue": sent.name}
        assert json.loads(query["filter"]) == {"predicates": [told]}


def test_a_version_that_somebody_uploads_at_the_same_moment_is_used(kubeflow, sent):
    def somebody(method, path, query, body, usual=kubeflow.answer):
        if path == f"{BASE}/pipelines/upload_version":
            usual(method, path, query, body)
            return 409, {"message": "already exists"}
        return usual(method, path, query, body)

    kubeflow.answer = somebody
    assert Cluster(kubeflow.url).upload(sent)[1] == kubeflow.tables["versions"][0]["pipeline_version_id"]


def test_a_version_is_named_by_its_content(sent):
    again = program("demo", read_recipe(RECIPE), "S", allow_tag=True)
    other = program("demo", read_recipe(RECIPE), "M", allow_tag=True)
    assert again.name == sent.name and again.text == sent.text
    assert other.name.startswith("demo-m-") and other.name[-12:] != sent.name[-12:]


@pytest.mark.battery
def test_three_processes_compile_one_recipe_to_the_same_bytes(tmp_path):
    recipe = tmp_path / "demo.yaml"  # with a schema: the larger a dictionary, the more orders it has
    raw = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    fields = [{"name": f"f{i}", "kind": "category", "hash_rows": 10 + i} for i in range(20)]
    raw["ingest"]["fields"] = {"label": "click", "fields": fields}
    recipe.write_text(yaml.safe_dump(raw), encoding="utf-8")
    texts = set()
    for seed in "012":
        out = tmp_path / f"{seed}.yaml"
        done = pipelines("compile", "--recipe", recipe, "--output", out, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        texts.add(out.read_bytes())
    assert len(texts) == 1 and len(list(yaml.safe_load_all(texts.pop()))) == 2


@pytest.mark.parametrize(
    ("recipe", "begins"),
    [
        ("clicks", "clicks-s-"),
        ("Clicks_2026 ü", "clicks-2026-ue-s-"),
        ("Größe__(neu)", "groesse-neu-s-"),
        ("-Überall-", "ueberall-s-"),
        ("点击", "audit-s-"),
        ("a" * 47 + ".b", "a" * 47 + "-s-"),
        ("a" * 300, "a" * 48 + "-s-"),
    ],
)
def test_a_version_has_a_name_that_is_legal_everywhere_whatever_the_recipe_is_called(recipe, begins):
    name = program(recipe, read_recipe(RECIPE), "S", allow_tag=True).name
    assert name.startswith(begins) and len(name) <= 63 and OBJECT_NAME.fullmatch(name)


def test_a_server_that_keeps_pipelines_as_objects_takes_every_recipe(tmp_path, typed):
    with serving(Kubeflow(objects=True)) as server:
        recipe = tmp_path / "Clicks_2026 ü.yaml"
        recipe.write_bytes(RECIPE.read_bytes())
        done = typed("submit", recipe, "--preset", "L", "--host", server.url)
        assert done.returncode == 0, done.stderr


@pytest.mark.battery
def test_an_unchanged_recipe_changes_nothing_on_the_server_whatever_process_sends_it(kubeflow):
    for seed in "01":
        told = {"KFP_HOST": kubeflow.url, "PYTHONHASHSEED": seed}
        assert pipelines("upload", RECIPE, **told).returncode == 0
        assert pipelines("schedule", RECIPE, "--cron", WEEKLY, **told).returncode == 0
    assert [len(kubeflow.tables[kind]) for kind in ("pipelines", "versions", "recurringruns")] == [1, 1, 1]
    assert not [verb for verb, _ in kubeflow.changes() if verb == "DELETE"] and len(kubeflow.changes()) == 4


def test_pipeline_and_version_come_with_the_description_that_the_interface_shows(kubeflow, sent):
    Cluster(kubeflow.url).upload(sent)
    told = [kubeflow.tables[kind][0]["description"] for kind in ("pipelines", "versions")]
    assert told == [describe("slimrec", "slimrec-pipeline")] * 2


def test_a_server_for_a_single_user_is_refused_where_a_namespace_is_given(kubeflow, typed):
    done = typed("submit", RECIPE, "--host", kubeflow.url, "--namespace", "slimrec")
    assert done.returncode == 20 and not kubeflow.changes() and len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in ("single user", "'slimrec'", "for many users", "unset KFP_NAMESPACE"))


def test_a_server_that_puts_audits_elsewhere_than_asked_is_found_out_before_a_run(sent):
    with serving(Kubeflow()) as server:
        server.answers["GET", f"{BASE}/healthz"] = (200, {"multi_user": True})  # it says so, and does not
        with pytest.raises(ConfigError, match="puts audits into 'kubeflow', asked for was 'team'"):
            Cluster(server.url, namespace="team").submit(sent, "x")
        assert not server.tables["runs"]


@pytest.mark.parametrize(
    ("copied", "meant"),
    [
        ("https://kubeflow.example/pipeline/", "https://kubeflow.example/pipeline"),
        ("https://kubeflow.example/_/pipeline/?ns=team#/runs", "https://kubeflow.example/pipeline"),
        ("https://kubeflow.example/pipeline/#/runs/details/1-2@3", "https://kubeflow.example/pipeline"),
        (" http://localhost:8080/#/pipelines\n", "http://localhost:8080"),
        ("http://[::1]:8080#/runs", "http://[::1]:8080"),
    ],
)
def test_an_address_may_be_copied_from_the_browser(copied, meant):
    assert address(copied) == meant


def test_the_environment_says_by_which_proxy_a_server_is_reached(kubeflow):
    away = {"KFP_HOST": "http://kubeflow.invalid/pipeline", "NO_PROXY": "", "no_proxy": ""}
    proxy = kubeflow.url.replace("http://", "http://me:secret%21@")
    done = pipelines("list", HTTP_PROXY=proxy, http_proxy=proxy, **away)
    assert done.returncode == 0, done.stderr
    assert {path.partition(BASE)[0] for _, path, _, _ in kubeflow.requests} == {"/pipeline"}
    assert {headers["Host"] for headers in kubeflow.headers} == {"kubeflow.invalid"}
    assert {headers["Proxy-Authorization"] for headers in kubeflow.headers} == {"Basic bWU6c2VjcmV0IQ=="}


@pytest.mark.parametrize(
    "host",
    [
        "http://[::1",
        "http://kubeflow:port",
        "http://kubeflow:99999",
        "http://kube flow",
        "http://a..b",
        "http://k.invalid",
    ],
)
def test_an_address_that_can_never_answer_is_no_outage(host):
    with pytest.raises(ConfigError, match="KFP_HOST"):
        Cluster(host)


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1", ":3128", "http://", "socks5://127.0.0.1:1"])
def test_a_proxy_that_is_none_is_told_as_such(monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ConfigError, match="give http://HOST:PORT"):
        Cluster("http://kubeflow.example")


def test_https_to_a_server_that_speaks_http_is_a_wrong_address(kubeflow):
    with pytest.raises(ConfigError, match="http or https"):
        Cluster(kubeflow.url.replace("http:", "https:"))


@pytest.mark.parametrize("told", ["very\nsecret", "v\u00e9ry"])
def test_a_token_that_no_header_takes_is_refused_untold(monkeypatch, told):
    monkeypatch.setenv("KFP_TOKEN", told)
    with pytest.raises(ConfigError, match="one line of ASCII") as caught:
        token()
    assert told[:2] not in str(caught.value)


def test_no_proxy_is_asked_for_a_server_that_needs_none(kubeflow):
    near = {"KFP_HOST": kubeflow.url, "NO_PROXY": "127.0.0.0/8", "no_proxy": "127.0.0.0/8"}
    done = pipelines("list", HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", **near)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("clicks.parquet", False),
        ("/home/me/clicks.parquet", False),
        ("/workspace/../home/clicks.parquet", False),
        ("/workspaces/clicks.parquet", False),
        ("file:///clicks.parquet", False),
        ("/workspace/clicks/day.parquet", True),
        ("s3://bucket/clicks/", True),
    ],
)
def test_a_source_that_no_pod_sees_is_refused_before_anything_is_sent_or_written(
    tmp_path, kubeflow, typed, source, seen
):
    raw = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    fields = {"label": "click", "fields": [{"name": "site", "kind": "category"}]}
    raw["ingest"] |= {"source": source, "fields": fields}
    recipe, out = tmp_path / "clicks.yaml", tmp_path / "out.yaml"
    recipe.write_text(yaml.safe_dump(raw), encoding="utf-8")
    for words in (("submit", recipe, "--host", kubeflow.url), ("compile", "--recipe", recipe, "--output", out)):
        done = typed(*words)
        assert done.returncode == (0 if seen else 20), done.stderr
        assert seen or (source in done.stderr and "under /workspace" in done.stderr)
    assert seen or not (kubeflow.requests or out.exists())


def test_upload_starts_nothing(kubeflow, typed):
    done = typed("upload", RECIPE, "--host", kubeflow.url, "--preset", "M")
    assert done.returncode == 0, done.stderr
    assert kubeflow.changes() == [("POST", "/pipelines"), ("POST", "/pipelines/upload_version")]
    assert done.stdout.strip() == kubeflow.tables["versions"][0]["display_name"]


def test_schedule_sends_cron_macro_and_no_catch_up(kubeflow, typed):
    done = typed("schedule", RECIPE, "--cron", WEEKLY, "--host", kubeflow.url)
    assert done.returncode == 0, done.stderr
    ((_, body),) = kubeflow.sent("POST", "/recurringruns")
    assert re.fullmatch(r"Audit of planted:rows=300000,seed=0 \(content [0-9a-f]{16}\)", body.pop("description"))
    parameters = body["runtime_config"].pop("parameters")
    assert parameters["audit_date"] == "auto"
    assert body == {
        "display_name": "demo",
        "experiment_id": kubeflow.tables["experiments"][0]["experiment_id"],
        "pipeline_version_reference": {
            "pipeline_id": kubeflow.tables["pipelines"][0]["pipeline_id"],
            "pipeline_version_id": kubeflow.tables["versions"][0]["pipeline_version_id"],
        },
        "runtime_config": {},
        "service_account": "slimrec-pipeline",
        "trigger": {"cron_schedule": {"cron": WEEKLY}},
        "mode": "ENABLE",
        "max_concurrency": 1,
        "no_catchup": True,
    }


def test_the_same_schedule_again_changes_nothing_and_another_one_replaces_it(kubeflow, sent):
    cluster = Cluster(kubeflow.url)
    first = cluster.schedule(sent, "weekly", WEEKLY)
    asked = len(kubeflow.changes())
    assert cluster.schedule(sent, "weekly", WEEKLY) == first and len(kubeflow.changes()) == asked
    other = cluster.schedule(sent, "daily", "0 0 3 * * *")
    second = cluster.schedule(sent, "weekly", "0 0 4 * * 1")
    assert kubeflow.changes()[-2:] == [("POST", "/recurringruns"), ("DELETE", f"/recurringruns/{first}")]
    assert {row["recurring_run_id"] for row in kubeflow.tables["recurringruns"]} == {other, second}


def test_a_replacement_that_is_refused_leaves_the_old_schedule(kubeflow, sent):
    cluster = Cluster(kubeflow.url)
    first = cluster.schedule(sent, "weekly", WEEKLY)
    kubeflow.answers["POST", f"{BASE}/recurringruns"] = (500, {"message": "out of order"})
    with pytest.raises(TransientError, match="out of order"):
        cluster.schedule(sent, "weekly", "0 0 4 * * 1")
    assert [row["recurring_run_id"] for row in kubeflow.tables["recurringruns"]] == [first]


def test_a_replacement_that_is_cut_short_is_mended_by_the_next(kubeflow, sent):
    cluster = Cluster(kubeflow.url)
    first = cluster.schedule(sent, "weekly", WEEKLY)
    kubeflow.answers["DELETE", f"{BASE}/recurringruns/{first}"] = (503, {"message": "away"})
    with pytest.raises(TransientError):
        cluster.schedule(sent, "weekly", "0 0 4 * * 1")
    assert len(kubeflow.tables["recurringruns"]) == 2
    kubeflow.answers.clear()
    last = cluster.schedule(sent, "weekly", "0 0 4 * * 1")
    assert [row["recurring_run_id"] for row in kubeflow.tables["recurringruns"]] == [last]


def test_unschedule_deletes_all_of_that_name_and_says_what_there_is_otherwise(kubeflow, sent, typed):
    Cluster(kubeflow.url).schedule(sent, "weekly", WEEKLY)
    done = typed("unschedule", "wekly", "--host", kubeflow.url)
    assert done.returncode == 20 and done.stderr.endswith("scheduled: weekly\n")
    kubeflow.tables["recurringruns"] *= 3
    assert typed("unschedule", "weekly", "--host", kubeflow.url).returncode == 0
    assert not kubeflow.tables["recurringruns"]


def test_list_shows_schedules_and_runs(kubeflow, sent, typed):
    cluster = Cluster(kubeflow.url)
    cluster.schedule(sent, "weekly", WEEKLY)
    cluster.submit(sent, "by-hand")
    done = typed("list", "--host", kubeflow.url)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("weekly", WEEKLY, "ENABLE", "by-hand", "2026-11-20 03:00"))


@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_no_terminal_is_so_narrow_that_an_id_is_cut(kubeflow, sent, typed, columns):
    run = Cluster(kubeflow.url).submit(sent, "a-name-that-is-rather-long-as-names-of-recipes-may-be")
    kubeflow.tables["runs"][0]["run_id"] = "0e5b2a7c-8a70-4c39-9d4b-0f3f6c1a2b3c"
    done = typed("list", "--host", kubeflow.url, COLUMNS=columns)
    assert run and done.returncode == 0 and "  0e5b2a7c-8a70-4c39-9d4b-0f3f6c1a2b3c\n" in done.stdout
    assert not done.stderr


def test_a_token_comes_from_the_environment_or_a_file_and_is_never_told(tmp_path, typed):
    with serving(Kubeflow(token="secret-1")) as server:
        (tmp_path / "token").write_text("secret-1\n", encoding="utf-8")
        assert typed("list", KFP_HOST=server.url, KFP_TOKEN="secret-1").returncode == 0
        assert typed("list", KFP_HOST=server.url, KFP_TOKEN_FILE=str(tmp_path / "token")).returncode == 0
        done = typed("submit", RECIPE, KFP_HOST=server.url, KFP_TOKEN="secret-2")
        assert done.returncode == 20 and "(401): set KFP_TOKEN" in done.stderr
        assert "secret" not in done.stdout + done.stderr and len(done.stderr.splitlines()) == 1
        both = typed("list", KFP_HOST=server.url, KFP_TOKEN="a", KFP_TOKEN_FILE="b")
        assert both.returncode == 20 and "both set" in both.stderr


def test_a_cluster_of_many_users_wants_a_namespace(sent):
    with serving(Kubeflow(multi_user=True)) as server:
        with pytest.raises(ConfigError, match="KFP_NAMESPACE"):
            Cluster(server.url)
        Cluster(server.url, namespace="team").schedule(sent, "weekly", WEEKLY)
        assert server.sent("POST", "/pipelines")[0][1]["namespace"] == "team"
        assert server.sent("POST", "/experiments")[0][1]["namespace"] == "team"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"message": "no such parameter"}, ConfigError, "answered 400: no such parameter"),
        (403, {"message": "no"}, ConfigError, "may do this"),
        (302, "<html>log in</html>", ConfigError, "login page"),
        (407, "<html>who are you</html>", ConfigError, "the proxy's user"),
        (409, {"message": "there already"}, ConflictError, "somebody else"),
        (429, {"message": "slowly"}, TransientError, "try again"),
        (503, "<html>away</html>", TransientError, "answered 503"),
    ],
)
def test_an_answer_that_is_an_error_has_a_class_and_one_sentence(kubeflow, sent, status, body, kind, words):
    kubeflow.answers["POST", f"{BASE}/runs"] = (status, body)
    with pytest.raises(kind, match=re.escape(words)) as caught:
        Cluster(kubeflow.url).submit(sent, "x")
    assert kubeflow.url in str(caught.value) and "\n" not in str(caught.value)


def test_a_login_page_is_not_taken_for_kubeflow(kubeflow):
    kubeflow.answers["GET", f"{BASE}/healthz"] = (200, "<html>log in</html>")
    with pytest.raises(ConfigError, match="login page"):
        Cluster(kubeflow.url)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("submit", RECIPE), 20, "KFP_HOST"),
        (("submit", RECIPE, "--host", "kubeflow.example"), 20, "https://"),
        (("submit", RECIPE, "--host", "https://me:pass@kubeflow.example"), 20, "'https://***@kubeflow.example'"),
        (("submit", RECIPE, "--host", "http://127.0.0.1:9"), 30, "127.0.0.1:9 cannot be reached"),
        (("submit", RECIPE, "--host", "http://127.0.0.1:9", "--preset", "XL"), 20, "no preset 'XL'"),
        (("schedule", RECIPE, "--cron", "0 3 * * 1", "--host", "http://127.0.0.1:9"), 20, "has 5 fields; six are needed"),
        (("submit", "raw.yaml", "--host", "http://127.0.0.1:9"), 20, "does not replace macros"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_in_one_sentence(tmp_path, typed, words, code, told):
    raw = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    raw["ingest"]["audit_date"] = "[[ScheduledTime.2006-01-02]]"
    (tmp_path / "raw.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    done = typed(*(tmp_path / word if word == "raw.yaml" else word for word in words))
    assert done.returncode == code and told in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_image_without_a_digest_is_refused_unless_asked_for(kubeflow, typed, monkeypatch):
    monkeypatch.setattr(cluster, "IMAGE", "slimrec:0.1.0")
    done = typed("submit", RECIPE, "--host", kubeflow.url)
    assert done.returncode == 20 and "@sha256:DIGEST" in done.stderr and not kubeflow.requests
    done = typed("upload", RECIPE, "--host", kubeflow.url, "--allow-tag")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "cron", [WEEKLY, "0 0 3 ? * MON", "*/15 0-30/5 1,2,3 1-15 jan-MAR *", "0 5/10 * * * SUN-SAT", "0 0 0 29 2 *", "0 0 0 31 2 1"]
)  # fmt: skip
def test_crons_that_the_scheduler_takes_are_taken(cron):
    assert check(cron) == cron


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 3 * * 1", "has 5 fields"),
        ("@weekly", "has 1 fields"),
        ("", "has 0 fields"),
        ("60 0 3 * * 1", "'60' for the second; allowed: 0 to 59"),
        ("0 0 24 * * 1", "'24' for the hour"),
        ("0 0 3 0 * *", "'0' for the day of the month"),
        ("0 0 3 * 13 *", "JAN to DEC"),
        ("0 0 3 * * 7", "allowed: 0 to 6, or SUN to SAT"),
        ("0 0 3 * * MO", "'MO' for the day of the week"),
        ("0 0 3 5-1 * *", "'5-1'"),
        ("0 */0 3 * * *", "'*/0'"),
        ("0 0,,1 3 * * *", "'' for the minute"),
        ("0 0 3 L * *", "'L'"),
        ("0 0 3 ² * *", "'²'"),
        ("0 0 0 31 2,4,6 *", "never comes"),
    ],
)
def test_crons_that_the_scheduler_would_misread_are_refused(cron, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        check(cron)
