"""Which images a cluster may run: one named by its content; a tag can be moved under a cached or scheduled audit."""

import re

from slimrec.errors import ConfigError

_NAME = r"[a-z0-9]([\w.:-]*/)?[\w./-]*"
_BY_DIGEST = re.compile(rf"{_NAME}(:[\w.-]+)?@sha256:[0-9a-f]{{64}}", re.ASCII)
_BY_TAG = re.compile(rf"{_NAME}:(?!latest$)[\w.-]+", re.ASCII)


def require_digest(image: str, allow_tag: bool) -> str:
    """The image, if it is named by digest (`...@sha256:` and 64 hex digits); by tag only where that is asked for.

    Raises ConfigError for everything else; `latest` and a name alone say nothing and are never allowed.
    """
    if _BY_DIGEST.fullmatch(image) or (allow_tag and _BY_TAG.fullmatch(image)):
        return image
    allowed = "NAME@sha256:DIGEST or NAME:TAG other than latest" if allow_tag else "NAME@sha256:DIGEST"
    raise ConfigError(
        f"the steps' image is '{image}', a cluster takes {allowed}; `make images` writes the digests to "
        f"images/digests.json: set SLIMREC_IMAGE to one{'' if allow_tag else ', or give --allow-tag'}"
    )
