"""The two families one can extend (gates, backbones): names, options read from signatures, late imports.

The options of a plug-in are the keyword arguments of its `__init__`. They are read from the source text, so that a
recipe is checked before a cluster is contacted and on machines where torch is not installed.
"""

import ast
import importlib
import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any

from slimrec.errors import ConfigError, did_you_mean

_PLAIN = {"bool": "true or false", "int": "a whole number", "float": "a finite number", "None": "null"}


def _is(kind: str, value: Any) -> bool:
    """Whether a value of a recipe can be of the type that an annotation names; JSON may write 3 as 3.0."""
    if kind in ("int", "float"):
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return number and (kind == "float" or value == int(value))
    return {"bool": isinstance(value, bool), "None": value is None}.get(kind, True)


@dataclass(frozen=True)
class Family:
    """The plug-ins of one kind by name; "package.module:Class" names one that has no name.

    Ours stand in the `TABLE` of their package as "module:Class"; those of other distributions come by entry points of
    the group that is called like the package. `adapter`, "module:function" of the package, makes a member of the family
    of a class from outside; `adds` are the options that it accepts beside those of that class.
    """

    noun: str
    package: str
    adapter: str = ""
    adds: tuple[str, ...] = ()

    @cached_property
    def _places(self) -> dict[str, dict[str, str]]:
        """Name -> what it stands for, "package.module:Class" -> who says so; ours first. Two places are a clash."""
        ours = importlib.import_module(self.package).TABLE
        places = {name: {f"{self.package}.{place}": "slimrec"} for name, place in ours.items()}
        for point in sorted(metadata.entry_points(group=self.package), key=lambda point: (point.name, point.value)):
            places.setdefault(point.name, {})[point.value] = point.dist.name if point.dist else "a distribution"
        return places

    @cached_property
    def table(self) -> dict[str, str]:
        """Name -> "package.module:Class", ours first."""
        return {name: next(iter(places)) for name, places in self._places.items()}

    def _is_ours(self, name: str) -> bool:
        return self._locate(name)[0].startswith(f"{self.package}.")

    def _locate(self, name: str) -> tuple[str, str]:
        """Module and class that a name or an import path stands for. ConfigError where it is none, or two."""
        places = {name: ""} if ":" in name else self._places.get(name, {})
        if not places:
            raise ConfigError(f"there is no {self.noun} '{name}'; {did_you_mean(name, self.table)}")
        if len(places) > 1:
            said = " and ".join(f"{place} by {who}" for place, who in places.items())
            raise ConfigError(
                f"{self.noun} '{name}' is given twice, as {said}: take one off, or name it by its import path"
            )
        module, _, cls = next(iter(places)).partition(":")
        return module, cls

    def brings(self, name: str) -> str:
        """The top-level module from outside that a plug-in comes from; "" for one of ours."""
        return "" if self._is_ours(name) else self._locate(name)[0].partition(".")[0]

    def _source(self, name: str) -> ast.ClassDef:
        """The class as it is written; imports nothing heavy."""
        module, cls = self._locate(name)
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec is None or not spec.origin:
            raise ConfigError(f"{self.noun} '{name}': no module '{module}' on the Python path")
        source = Path(spec.origin)
        tree = ast.parse(source.read_text(encoding="utf-8"))
        body = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls), None)
        if body is None:
            raise ConfigError(f"{self.noun} '{name}': '{source.name}' defines no class '{cls}'")
        return body

    def options(self, name: str) -> dict[str, str]:
        """Keyword arguments that the plug-in accepts, with the text of their defaults."""
        return {option: default for option, (_, default) in self._arguments(name).items()}

    def _arguments(self, name: str) -> dict[str, tuple[str, str]]:
        """The same with the text of their annotations before the defaults."""
        body = self._source(name).body
        init = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:
            return {}
        return {
            argument.arg: (ast.unparse(argument.annotation) if argument.annotation else "", ast.unparse(default))
            for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults)
            if default is not None
        }

    def says(self, name: str, attribute: str) -> bool:
        """Whether the class itself sets this attribute to True."""
        return f"{attribute} = True" in map(ast.unparse, self._source(name).body)

    def check(self, name: str, options: dict[str, Any]) -> None:
        """Refuse an unknown name, an option that the plug-in does not accept, or one that is not of its plain type.

        Options with other annotations than numbers and truth values are left to the plug-in.
        """
        accepted = self._arguments(name)
        for option, value in options.items():
            if option not in accepted and (self._is_ours(name) or option not in self.adds):
                raise ConfigError(f"{self.noun} '{name}' has no option '{option}'; {did_you_mean(option, accepted)}")
            wanted = accepted[option][0].split(" | ") if option in accepted else []
            if wanted and not any(_is(kind, value) for kind in wanted):
                words = " or ".join(_PLAIN[kind] for kind in wanted)
                raise ConfigError(f"{self.noun} '{name}': `{option}` must be {words}, got {value!r}")

    def idle(self, name: str, options: dict[str, Any]) -> list[str]:
        """A sentence on each option of ours that does nothing beside the others: no fault, as older recipes hold such ones."""
        if not self._is_ours(name):
            return []
        package = importlib.import_module(self.package)
        defaults = {option: ast.literal_eval(text) for option, text in self.options(name).items()}
        effects = dict(getattr(package, "EFFECT", {}).get(name, {}))
        if {"every", "stream"} <= set(defaults):
            effects.setdefault("every", package.EVERY)
        return [
            f"{self.noun} '{name}': `{option}` is for {where}, and does nothing here"
            for option, (works, where) in effects.items()
            if options.get(option, defaults[option]) != defaults[option] and not works(defaults | options)
        ]

    def load(self, name: str) -> type:
        """The class itself."""
        module, cls = self._locate(name)
        found = getattr(importlib.import_module(module), cls)
        if self._is_ours(name) or not self.adapter:
            return found
        module, _, function = self.adapter.partition(":")
        return getattr(importlib.import_module(f"{self.package}.{module}"), function)(found)

    def create(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Check the options, import the class, build the plug-in."""
        self.check(name, options)
        try:
            return self.load(name)(*arguments, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.noun} '{name}': {error}") from error


GATES = Family("method", "slimrec.gates")
BACKBONES = Family("backbone", "slimrec.backbones", adapter="adapter:adapted", adds=("whole",))
