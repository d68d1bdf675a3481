"""A server that speaks as much of the Kubeflow Pipelines API as the client uses, as version 2.17 does; records every request."""

import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import services

BASE = "/apis/v2beta1"
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # RFC 1123 label, up to 63
OWN_NAMESPACE = "kubeflow"  # where a server for a single user starts every run, whatever it was asked


class Kubeflow:
    """What was asked (`requests`: method, path, query, body) and what there is (`tables`: rows by kind).

    `objects`: pipelines and versions are kept as Kubernetes objects, whose names are those of objects.
    """

    def __init__(self, multi_user=False, token="", objects=False):
        self.requests, self.multi_user, self.token, self.objects = [], multi_user, token, objects
        self.tables = {kind: [] for kind in ("pipelines", "versions", "experiments", "runs", "recurringruns")}
        self.headers = []  # of each request
        self.answers = {}  # (method, path) -> (status, body) instead of the usual answer
        self.url = ""

    def sent(self, method: str, path: str) -> list[tuple[dict, object]]:
        """Query and body of the requests of one kind, in order."""
        return [(query, body) for verb, at, query, body in self.requests if (verb, at) == (method, BASE + path)]

    def changes(self) -> list[tuple[str, str]]:
        """Every request that changes something, in order."""
        return [(verb, at.removeprefix(BASE)) for verb, at, _, _ in self.requests if verb != "GET"]

    def answer(self, method, path, query, body) -> tuple[int, object]:
        """Status and JSON for a request."""
        if (method, path) in self.answers:
            return self.answers[method, path]
        parts = path[path.index(BASE) + len(BASE) :].strip("/").split("/")
        if parts == ["healthz"]:
            return 200, {"multi_user": self.multi_user}
        if parts == ["pipelines", "upload_version"]:
            row = {"display_name": query["name"], "pipeline_id": query["pipelineid"], "yaml": body}
            return self._make("versions", "pipeline_version_id", row | {"description": query.get("description", "")})
        kind = "versions" if parts[-1] == "versions" else parts[0]
        if kind not in self.tables:
            return 404, {"message": "no such thing"}
        if method == "POST":
            names = {"pipelines": "pipeline_id", "experiments": "experiment_id", "runs": "run_id"}
            if kind == "experiments" and self.multi_user and not body.get("namespace"):
                return 400, {"message": "Invalid input error: in multi-user mode a namespace is needed"}
            if kind in ("experiments", "runs", "recurringruns"):
                body = {**body, "namespace": self._namespace(body)}
            return self._make(kind, names.get(kind, "recurring_run_id"), body)
        if method == "DELETE":
            self.tables[kind] = [row for row in self.tables[kind] if row["recurring_run_id"] != parts[1]]
            return 200, {}
        return 200, self._page(kind, query)

    def _namespace(self, body: dict) -> str:
        """Of an experiment what was asked, of a run that of its experiment; one's own where there is a single user."""
        if not self.multi_user:
            return OWN_NAMESPACE
        spaces = {row["experiment_id"]: row["namespace"] for row in self.tables["experiments"]}
        return body.get("namespace") or spaces[body["experiment_id"]]

    def _make(self, kind: str, key: str, row: dict) -> tuple[int, dict]:
        """A new row, unless its name is taken, or is none for an object; runs may share a name."""
        name = row["display_name"]
        if self.objects and kind in ("pipelines", "versions") and not (OBJECT_NAME.fullmatch(name) and len(name) <= 63):
            return 400, {"message": f"metadata.name: Invalid value: {name!r}: a lowercase RFC 1123 label is needed"}
        same = [one for one in self.tables[kind] if one["display_name"] == name]
        if kind in ("pipelines", "versions", "experiments") and same:
            return 409, {"message": f"Already exist error: {name}"}
        return 200, self._add(kind, key, row)

    def _add(self, kind: str, key: str, row: dict) -> dict:
        row = {
            **row,
            key: f"{kind}-{len(self.tables[kind]) + 1}-{len(self.requests)}",
            "created_at": "2026-11-20T03:00:00Z",
        }
        self.tables[kind].append(row)
        return {name: value for name, value in row.items() if name != "yaml"}

    def _page(self, kind: str, query: dict) -> dict:
        """Rows that pass the filter, two a page."""
        wanted = json.loads(query.get("filter", '{"predicates": []}'))["predicates"]
        rows = [
            row
            for row in self.tables[kind]
            if all(row[one["key"]] == one.get("stringValue", one.get("string_value")) for one in wanted)
        ]
        begin = int(query.get("page_token") or 0)
        names = {"versions": "pipeline_versions", "recurringruns": "recurringRuns"}
        more = {"next_page_token": str(begin + 2)} if len(rows) > begin + 2 else {}
        return {names.get(kind, kind): rows[begin : begin + 2], "total_size": len(rows), **more}


@contextmanager
def serving(kubeflow: Kubeflow):
    """The server on a port of its own, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self):
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            is_json = "json" in (self.headers.get("Content-Type") or "") and raw
            body = json.loads(raw) if is_json else raw.decode()
            query = dict(parse_qsl(parts.query))
            kubeflow.headers.append(self.headers)
            kubeflow.requests.append((self.command, parts.path, query, body))
            status, told = kubeflow.answer(self.command, parts.path, query, body)
            if kubeflow.token and self.headers.get("authorization") != f"Bearer {kubeflow.token}":
                status, told = 401, {"message": "who are you"}
            data = told.encode() if isinstance(told, str) else json.dumps(told, default=str).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(told, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, *words):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kubeflow.url = f"http://127.0.0.1:{server.server_port}"
    with services.answering(server):
        yield kubeflow
