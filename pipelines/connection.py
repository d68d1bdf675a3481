"""How a Kubeflow Pipelines server is reached: its address as people have it, proxies, certificates, and a token."""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import kfp_server_api as api
from requests.utils import get_auth_from_url, get_environ_proxies, select_proxy
from urllib3.util import make_headers, parse_url

from slimrec.errors import ConfigError
from slimrec.track import redact


def address(host: str) -> str:
    """The address of the API, of one that may have been copied from the browser: `.../_/pipeline/?ns=team#/runs`.

    Raises ConfigError for what is no http address, and for one with a password in it.
    """
    parts = _split(host.strip())
    if parts is None or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise ConfigError(
            f"the host of Kubeflow Pipelines is '{redact(host)}'; give --host URL or set KFP_HOST, "
            "for example to https://kubeflow.example/pipeline, a token by KFP_TOKEN"
        )
    path = parts.path.rstrip("/")
    if path.startswith("/_/"):  # Kubeflow's dashboard shows /pipeline in a frame of its own
        path = path.removeprefix("/_")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None for one without a host, or with what is no host or no port."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and not re.search(r"[\s<>]", parts.netloc) and parts.port != 0 else None
    except ValueError:
        return None


def token() -> str:
    """The token that KFP_TOKEN holds, or the file that KFP_TOKEN_FILE names; "" for none."""
    held, file = os.environ.get("KFP_TOKEN", ""), os.environ.get("KFP_TOKEN_FILE", "")
    if held and file:
        raise ConfigError("KFP_TOKEN and KFP_TOKEN_FILE are both set; set one")
    if file:
        try:
            held = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"KFP_TOKEN_FILE names {file}, which cannot be read: {error.strerror}") from None
    held = held.strip()
    if not held.isascii() or not held.isprintable():
        raise ConfigError("the token of KFP_TOKEN or KFP_TOKEN_FILE holds what no token has: one line of ASCII is sent")
    return held


def connect(host: str, token: str) -> api.ApiClient:
    """A client of the API at `host`, an `address`, by the proxies that the environment names for it."""
    settings = api.Configuration(host=host)
    settings.ssl_ca_cert = os.environ.get("SSL_CERT_FILE") or None  # a cluster of one's own often has one of its own
    if token:
        settings.api_key, settings.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
    proxy = select_proxy(host, get_environ_proxies(host))  # HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, without NO_PROXY
    if proxy:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if (parts := _split(proxy)) is None or parts.scheme not in ("http", "https"):
            raise ConfigError(
                f"the environment's proxy for {host} is '{redact(proxy)}'; give http://HOST:PORT or https://HOST:PORT"
            )
        settings.proxy = parse_url(proxy)._replace(auth=None).url
        user, password = get_auth_from_url(proxy)
        settings.proxy_headers = make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
    return api.ApiClient(settings)
