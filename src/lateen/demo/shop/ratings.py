"""The ratings service: how many stars each reviewer gave. `GET` and `POST /ratings/<id>`, `GET /health`.

A POST of `{"Reviewer1": 5, ...}` replaces a product's ratings until the process ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lateen.demo.shop.messages import Handler, Request, Response, json_response, not_found
from lateen.demo.shop.serving import run_service
from lateen.demo.shop.settings import ShopSettings

__all__ = ["build_ratings"]

DEFAULT_RATINGS = {"Reviewer1": 5, "Reviewer2": 4}
PRODUCTS_LIMIT = 1000  # products with ratings of their own; memory is all that keeps them


def build_ratings(settings: ShopSettings) -> Handler:
    """Return the handler of the ratings service; every version is the same."""
    posted: dict[int, dict[str, int]] = {}

    def rate(product: int, body: bytes) -> Response:
        try:
            ratings = _parse_ratings(body)
        except ValueError as err:
            return json_response({"error": str(err)}, 400)
        if product not in posted and len(posted) >= PRODUCTS_LIMIT:
            return json_response({"error": f"at most {PRODUCTS_LIMIT} products can be rated"}, 507)
        posted[product] = ratings
        return json_response({"id": product, "ratings": ratings})

    def handle(request: Request) -> Response:
        match (request.method, request.path.strip("/").split("/")):
            case ("GET", ["health"]):
                return json_response({"status": "ratings is healthy", "version": settings.version})
            case ("GET" | "POST", ["ratings", product]) if not (product.isascii() and product.isdigit()):
                return json_response({"error": f"a product's id must be a number, got {product!r}"}, 400)
            case ("GET", ["ratings", product]):
                return json_response({"id": int(product), "ratings": posted.get(int(product), DEFAULT_RATINGS)})
            case ("POST", ["ratings", product]):
                return rate(int(product), request.body)
        return not_found(request)

    return handle


def _parse_ratings(body: bytes) -> dict[str, int]:
    """Return reviewer -> stars. Raises `ValueError` with what was wanted."""
    try:
        value: Any = json.loads(body)
    except ValueError:
        raise ValueError('the body must be JSON like {"Reviewer1": 5}') from None
    if not isinstance(value, dict) or not value:
        raise ValueError("the body must be a JSON object of reviewers and their stars")
    for reviewer, stars in value.items():
        if isinstance(stars, bool) or not isinstance(stars, int) or not 0 <= stars <= 5:
            raise ValueError(f"stars of {reviewer!r} must be a whole number from 0 to 5, got {stars!r}")
    return value


if __name__ == "__main__":
    sys.exit(run_service("ratings", build_ratings))
