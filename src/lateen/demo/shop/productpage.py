"""The productpage service: the page that a browser sees, and the same as JSON.

    GET  /productpage, /                          the page; a part that cannot be had is told in its place
    POST /login  (form: username)                 remembers who asks, so that calls carry `end-user`
    GET  /logout
    GET  /api/v1/products                         every product
    GET  /api/v1/products/<id>                    what details says
    GET  /api/v1/products/<id>/reviews            what reviews says
    GET  /api/v1/products/<id>/ratings            what ratings says
    GET  /health

As in the tutorials' shop it waits 3 s for details and for ratings, and for reviews twice 3 s.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from urllib.parse import parse_qs

from lateen.demo.shop.client import Answer, Caller, Failure
from lateen.demo.shop.messages import Handler, Request, Response, json_response, not_found
from lateen.demo.shop.page import Part, Product, render_page
from lateen.demo.shop.serving import run_service
from lateen.demo.shop.settings import Address, ShopSettings
from lateen.demo.shop.tracing import select_forwarded

__all__ = ["build_productpage"]

TIMEOUT_SECONDS = 3.0
REVIEWS_TRIES = 2
COOKIE = "session"

PRODUCTS = (
    Product(
        id=0,
        title="Sailing Alone Around the World",
        description=(
            "In April 1895 Joshua Slocum put out from Boston in the Spray, a sloop he had rebuilt with his own hands. "
            "Three years and 46,000 miles later he was home: the first to have done it alone."
        ),
    ),
)

_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")  # becomes a header's value, so nothing else gets in


def build_productpage(settings: ShopSettings) -> Handler:
    """Return the handler of the productpage service; every version is the same."""
    caller = Caller(settings)

    def ask(upstream: Address, path: str, request: Request, tries: int = 1) -> Answer | Failure:
        """Return the first good answer of `tries`, else the last thing that came of it."""
        headers = _headers(request)
        result: Answer | Failure = Failure("nobody was asked")
        for _ in range(tries):
            result = caller.call(upstream, path, headers=headers, timeout_seconds=TIMEOUT_SECONDS)
            if isinstance(result, Answer) and result.status == 200:
                break
        return result

    def ask_details(product: Product, request: Request) -> Answer | Failure:
        return ask(settings.details, f"/details/{product.id}", request)

    def ask_reviews(product: Product, request: Request) -> Answer | Failure:
        return ask(settings.reviews, f"/reviews/{product.id}", request, REVIEWS_TRIES)

    def show(request: Request) -> Response:
        product = PRODUCTS[0]
        page = render_page(
            product=product,
            details=_part(ask_details(product, request)),
            reviews=_part(ask_reviews(product, request)),
            user=_session_user(request.headers),
        )
        return Response(
            body=page.encode(), content_type="text/html; charset=utf-8", headers=(("cache-control", "no-store"),)
        )

    def products(request: Request, rest: list[str]) -> Response:
        if not rest:
            return json_response([{"id": p.id, "title": p.title, "descriptionHtml": p.description} for p in PRODUCTS])
        product = next((p for p in PRODUCTS if str(p.id) == rest[0]), None)
        if product is None:
            return json_response({"error": f"there is no product {rest[0]!r}"}, 404)
        match rest[1:]:
            case []:
                return _relay("details", ask_details(product, request))
            case ["reviews"]:
                return _relay("reviews", ask_reviews(product, request))
            case ["ratings"]:
                return _relay("ratings", ask(settings.ratings, f"/ratings/{product.id}", request))
        return not_found(request)

    def handle(request: Request) -> Response:
        match (request.method, request.path.strip("/").split("/")):
            case ("GET", [""] | ["productpage"]):
                return show(request)
            case ("GET", ["health"]):
                return json_response({"status": "productpage is healthy", "version": settings.version})
            case ("POST", ["login"]):
                return _login(request)
            case ("GET" | "POST", ["logout"]):
                return _see_page(f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
            case ("GET", ["api", "v1", "products", *rest]):
                return products(request, rest)
        return not_found(request)

    return handle


def _headers(request: Request) -> dict[str, str]:
    """Return what goes with every call: the headers that travel on; a logged-in user wins over the caller's word."""
    user = _session_user(request.headers)
    return {**select_forwarded(request.headers), **({"end-user": user} if user else {})}


def _session_user(headers: Mapping[str, str]) -> str | None:
    # Not signed: whoever can set a cookie can log in too, without a password. This is a stage, not a vault.
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE and _USER.fullmatch(value):
            return value
    return None


def _login(request: Request) -> Response:
    form = parse_qs(request.body.decode("utf-8", "replace"))
    user = form.get("username", [""])[0].strip()
    if not _USER.fullmatch(user):
        return json_response({"error": "username must be 1 to 64 letters, digits and . _ @ + -"}, 400)
    return _see_page(f"{COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax")


def _see_page(cookie: str) -> Response:
    headers = (("location", "/productpage"), ("set-cookie", cookie))
    return Response(status=303, content_type="text/plain", headers=headers)


def _relay(service: str, result: Answer | Failure) -> Response:
    """Return an upstream's answer as ours, with its status; 503 or 504 when there was none."""
    match result:
        case Answer(status=status, value=value) if value is not None:
            return json_response(value, status)
        case Answer(status=status):
            # A 2xx without JSON is not what was asked for, so it must not look like success.
            return json_response(
                {"error": f"{service} answered {status} without JSON"}, status if status >= 400 else 502
            )
        case Failure(reason=reason, timed_out=timed_out):
            return json_response({"error": f"{service} is unavailable: {reason}"}, 504 if timed_out else 503)


def _part(result: Answer | Failure) -> Part:
    match result:
        case Answer(status=200, value=dict(value)):
            return Part(value=value)
        case Answer(status=200):
            return Part(error="it answered with something else than was asked for")
        case Answer(status=status):
            return Part(error=f"it answered with status {status}")
        case Failure(reason=reason):
            return Part(error=reason)


if __name__ == "__main__":
    sys.exit(run_service("productpage", build_productpage))
