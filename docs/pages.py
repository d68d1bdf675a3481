"""Pages of the site that stand at the top of the checkout: README, CONTRIBUTING and CHANGELOG, with their links turned."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs with the files of docs/."""
    files.append(File.generated(config, "LICENSE.txt", content=(ROOT / "LICENSE").read_text(encoding="utf-8")))
    for source, page in PAGES.items():
        text = (
            (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](").replace("](LICENSE)", "](LICENSE.txt)")
        )
        for name, other in PAGES.items():
            text = text.replace(f"]({name})", f"]({other})")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs with the text of each page: a page of docs/ names the README as it lies in the checkout."""
    return markdown.replace("](../README.md)", "](index.md)")
