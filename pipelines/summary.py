"""What a local run says at its end: before and after in a table, the verdict, and where to look further."""

import io
import os
import re
import sys
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slimrec.artifacts import read_json, read_manifest
from slimrec.verdict.outline import against_champion, before_after, changes, headline
from slimrec.verdict.soundness import mind


def show(console: Console, output: Path, name: str) -> None:
    """Print the summary of a run that ended well; `name` is the registered model's."""
    console = _plain(console)
    facts = read_json(output / "evaluate" / "report" / "report.json")
    table = Table("", "full", "slim", "change")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in before_after(facts):
        table.add_row(*row)
    console.print(f"\n[bold]{escape(headline(facts))}[/]")
    console.print(table)
    console.print(f"Verdict   {facts['verdict']}: {facts['reason']}", markup=False)
    console.print(f"Kept      {_names(facts, kept=True)}", markup=False)
    console.print(f"Dropped   {_names(facts, kept=False)}", markup=False)
    for said in mind(facts):
        console.print(f"Mind      {said}", markup=False)
    if said := against_champion(facts):
        console.print(f"Champion  {said}", markup=False)
    for field, what in changes(facts):
        console.print(f"Changed   {field}: {what}", markup=False)
    console.print(f"Registry  {_registered(output, name)}", markup=False)
    console.print(f"Report    {near(output / 'evaluate' / 'report' / 'report.html')}", markup=False, soft_wrap=True)
    for bundle in sorted(output.glob("re*/bundle/bundle.json")):  # of the step register, or refuse
        signed = "" if read_manifest(bundle.parent)["signed"] else ", unsigned: SLIMREC_SIGNING_KEY_FILE names no key"
        console.print(f"Bundle    {near(bundle)}{signed}", markup=False, soft_wrap=True)
    store = os.environ["MLFLOW_TRACKING_URI"]
    opener = near(Path(sys.executable).parent / "mlflow")
    console.print(f"MLflow    {opener} ui --backend-store-uri {store}", markup=False, soft_wrap=True)


def writable(text: str, console: Console) -> bool:
    """Whether the console's encoding has these characters."""
    try:
        text.encode(getattr(console.file, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


# What a summary may hold beyond ASCII, and what stands for it where that cannot be written.
_SIMPLE = str.maketrans({"−": "-", "–": "-", "—": "-", "\u00a0": " ", "\u202f": " ", "·": "*", "×": "x", "…": "...", "≥": ">=", "≤": "<=",
                         "→": "->", "µ": "u", "±": "+/-"})  # fmt: skip


class Heard(io.TextIOBase):
    """Passes text on as long as somebody takes it: an audit goes on without a reader. `lost` says why one was lost."""

    def __init__(self, file: TextIO):
        self._file = file
        self.lost: OSError | None = None

    @property
    def encoding(self) -> str:
        return self._file.encoding

    def write(self, text: str) -> int:
        try:
            if self.lost is None:
                self._file.write(text)
                self._file.flush()
        except OSError as error:
            self.lost = error
        return len(text)

    def isatty(self) -> bool:
        return self._file.isatty()


class _Simple(Heard):
    """The same with what the encoding lacks replaced; box lines become what ASCII has."""

    def write(self, text: str) -> int:
        simple = re.sub("[\u2500-\u257f]", lambda line: "|" if line[0] in "│┃║" else "-", text.translate(_SIMPLE))
        super().write(simple.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)


def _plain(console: Console) -> Console:
    """The console, or one that writes the same in what its encoding has."""
    if writable("│−✓\u202f", console):
        return console
    return Console(file=_Simple(console.file), highlight=False, width=console.width)


def near(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _names(facts: dict, kept: bool) -> str:
    return ", ".join(field["name"] for field in facts["fields"] if field["kept"] == kept) or "none"


def _registered(output: Path, name: str) -> str:
    """What the step returned, if the verdict let it run."""
    returned = output / "register" / "executor_output.json"
    if not returned.is_file():
        return "nothing registered"
    entry = read_json(returned)["parameterValues"]["Output"]
    if not entry["registered"]:
        return f"nothing registered: {entry['reason']}"
    return f"{name} version {entry['version']}, {' and '.join(entry['aliases'])}"
