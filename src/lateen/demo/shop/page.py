"""Draw the product's page: one self-contained HTML document, no script, nothing loaded from elsewhere.

All that comes from other services is untrusted here: it is escaped, and what has a wrong shape is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Part", "Product", "render_page"]

_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_COVER = (Path(__file__).parent / "cover.svg").read_text(encoding="utf-8")
_LOGO = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><path d="M5 23 25 3v20z"/>'
    '<path class="hull" d="M3 25h26l-4 5H8z"/></svg>'
)
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Cpath d='M6 24 24 4v20z' fill='%23c8553d'/%3E%3C/svg%3E"
)

_FACTS = (
    ("author", "Author"),
    ("year", "First published"),
    ("type", "Binding"),
    ("pages", "Pages"),
    ("publisher", "Publisher"),
    ("language", "Language"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
)
_COLORS = {"black", "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    id: int
    title: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one service contributes: its answer, or why there is none."""

    value: Mapping[str, Any] | None = None
    error: str = ""


def render_page(*, product: Product, details: Part, reviews: Part, user: str | None) -> str:
    """Return the page as HTML."""
    title = escape(product.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Lateen Books</title>
<link rel="icon" href="{_ICON}">
<style>
{_STYLE}</style>
</head>
<body>
<header class="bar">
<a class="brand" href="/productpage">{_LOGO}Lateen Books</a>
{_account(user)}
</header>
<main>
<section class="hero">
<div class="cover">{_COVER}</div>
<div class="about">
<p class="kicker">Book of the month</p>
<h1>{title}</h1>
<p class="lead">{escape(product.description)}</p>
{_details(details)}
</div>
</section>
<section class="reviews" aria-labelledby="reviews">
<div class="head"><h2 id="reviews">What readers say</h2>{_answered_by(reviews)}</div>
{_reviews(reviews)}
</section>
</main>
<footer>One page, up to four services, every call between them through a sidecar.</footer>
</body>
</html>
"""


def _account(user: str | None) -> str:
    if user:
        return (
            f'<nav class="account"><span class="user">{escape(user)}</span>'
            '<a class="button quiet" href="/logout">Sign out</a></nav>'
        )
    return (
        '<form class="account" method="post" action="/login">'
        '<input name="username" placeholder="jason" aria-label="User name" autocomplete="username" required '
        'maxlength="64"><button class="button">Sign in</button></form>'
    )


def _details(part: Part) -> str:
    if part.value is None:
        return _notice("Error fetching product details", "The details service cannot be shown right now", part.error)
    facts = "".join(
        f"<div><dt>{label}</dt><dd>{escape(str(part.value[key]))}</dd></div>"
        for key, label in _FACTS
        if isinstance(part.value.get(key), str | int)
    )
    return f'<dl class="facts">{facts}</dl>'


def _answered_by(part: Part) -> str:
    version = (part.value or {}).get("version")
    if not isinstance(version, str):
        return ""
    return f'<span class="chip">answered by <b>reviews-{escape(version)}</b></span>'


def _reviews(part: Part) -> str:
    if part.value is None:
        return _notice("Error fetching product reviews", "The reviews service cannot be shown right now", part.error)
    cards = "\n".join(_cards(part.value.get("reviews")))
    return f'<div class="cards">\n{cards}\n</div>'


def _cards(reviews: Any) -> Iterator[str]:
    for review in reviews if isinstance(reviews, list) else []:
        if not isinstance(review, dict):
            continue
        text, reviewer = escape(str(review.get("text", ""))), escape(str(review.get("reviewer", "")))
        yield (
            f'<figure class="card">{_rating(review.get("rating"))}'
            f"<blockquote>{text}</blockquote><figcaption>{reviewer}</figcaption></figure>"
        )


def _rating(rating: Any) -> str:
    """Return stars, a word about missing ones, or nothing where this version shows none."""
    if not isinstance(rating, dict):
        return ""
    stars, color = rating.get("stars"), rating.get("color")
    if "error" in rating or not isinstance(stars, int):
        reason = escape(str(rating.get("error", "no stars were given")))
        return f'<p class="no-stars" role="status">{reason}</p>'
    shown = max(0, min(5, stars))
    kind = color if color in _COLORS else "black"
    return (
        f'<p class="stars {kind}" role="img" aria-label="{shown} of 5 stars, {kind}">'
        f'{"★" * shown}<span class="off">{"★" * (5 - shown)}</span></p>'
    )


def _notice(title: str, text: str, reason: str) -> str:
    return (
        f'<div class="notice" role="alert"><h3>{title}</h3>'
        f"<p>{text}; the rest of the page is not affected.</p><code>{escape(reason)}</code></div>"
    )
