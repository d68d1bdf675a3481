"""Images: a cluster runs what is named by content."""

import pytest

from pipelines.images import require_digest
from slimrec.errors import ConfigError

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["slimrec", "registry.example:5000/team/slimrec", "registry.example/slimrec:0.1.0"])
def test_an_image_named_by_digest_is_taken(name):
    assert require_digest(f"{name}@{DIGEST}", allow_tag=False) == f"{name}@{DIGEST}"


@pytest.mark.parametrize(
    "image",
    ["slimrec:0.1.0", "slimrec", "slimrec:latest", "slimrec@sha256:1", f"@{DIGEST}", f"a b@{DIGEST}", DIGEST, ""],
)
def test_an_image_without_digest_is_refused_with_what_to_do(image):
    with pytest.raises(ConfigError, match="NAME@sha256:DIGEST.*images/digests.json.*SLIMREC_IMAGE.*--allow-tag"):
        require_digest(image, allow_tag=False)


@pytest.mark.parametrize("image", ["slimrec:0.1.0", "localhost:5000/slimrec:dev-1", f"slimrec:1@{DIGEST}"])
def test_a_tag_is_taken_where_it_is_asked_for(image):
    assert require_digest(image, allow_tag=True) == image


@pytest.mark.parametrize("image", ["slimrec", "slimrec:latest", "localhost:5000/slimrec", "slimrec@sha256:1", ""])
def test_a_name_alone_and_latest_are_never_taken(image):
    with pytest.raises(ConfigError, match="NAME:TAG other than latest"):
        require_digest(image, allow_tag=True)
