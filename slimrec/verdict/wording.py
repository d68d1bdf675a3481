"""Figures and names as people read them, in a page, in Markdown and on a screen."""

from __future__ import annotations

import html
import re


def size(count: float) -> str:
    """Bytes for people: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def whole(count: int) -> str:
    """An integer with narrow spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def figure(value: float) -> str:
    """A quality, to five decimals."""
    return f"{value:.5f}"


def signed(value: float) -> str:
    """A change, to five decimals, with a true minus sign."""
    text = f"{value:+.5f}"
    return "0" if float(text) == 0 else text.replace("-", "\u2212")


def bound(value: float | None, plus: bool = True) -> str:
    """A change, where there is one; without `plus` a quality that may be negative."""
    return "unknown" if value is None else signed(value).lstrip("" if plus else "+")


def literal(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no new cell."""
    return re.sub(r"([\\`*_\[\]()#+!|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
