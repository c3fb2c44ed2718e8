"""The reviews service: what readers say. `GET /reviews/<id>`, `GET /health`.

    v1    words only; calls nobody
    v2    asks ratings (waits 10 s at most) and shows black stars
    v3    asks ratings (waits 2.5 s at most) and shows red stars

The waits are those of the tutorials' shop: a fault of 7 s in ratings is longer than productpage is willing to wait for
v2, and v3 is the version that has learned from it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from lateen.demo.shop.client import Answer, Caller
from lateen.demo.shop.messages import Handler, Request, Response, json_response, not_found
from lateen.demo.shop.serving import run_service
from lateen.demo.shop.settings import BadSetting, ShopSettings
from lateen.demo.shop.tracing import select_forwarded

__all__ = ["build_reviews"]

REVIEWS = (
    (
        "Reviewer1",
        "A retired captain rebuilds a rotten oyster sloop and then simply sails it around the world, alone. "
        "Three years at sea, told as calmly as a walk to the harbour. I read it in one night.",
    ),
    (
        "Reviewer2",
        "Dry, funny, and full of weather. The carpet tacks on deck alone are worth the price. "
        "I could have done with one more chart.",
    ),
)
NO_RATING = {"error": "Ratings service is currently unavailable"}


@dataclass(frozen=True, slots=True)
class Stars:
    color: str
    timeout_seconds: float


VERSIONS: dict[str, Stars | None] = {"v1": None, "v2": Stars("black", 10.0), "v3": Stars("red", 2.5)}


def build_reviews(settings: ShopSettings) -> Handler:
    """Return the handler of one version. Raises `BadSetting` for a version that does not exist."""
    if settings.version not in VERSIONS:
        raise BadSetting(f"SERVICE_VERSION must be one of {', '.join(VERSIONS)}, got {settings.version!r}")
    stars = VERSIONS[settings.version]
    caller = Caller(settings)

    def ratings_of(product: int, request: Request, stars: Stars) -> dict[str, Any] | None:
        """Return reviewer -> rating; None when ratings did not say."""
        answer = caller.call(
            settings.ratings,
            f"/ratings/{product}",
            headers=select_forwarded(request.headers),
            timeout_seconds=stars.timeout_seconds,
        )
        match answer:
            case Answer(status=200, value={"ratings": dict(ratings)}):
                return {name: {"stars": count, "color": stars.color} for name, count in ratings.items()}
            case Answer(status=status):
                reason = (
                    f"ratings answered {status}" if status != 200 else "ratings answered something else than ratings"
                )
            case failure:
                reason = failure.reason
        print(f"reviews: no ratings of product {product}: {reason}", file=sys.stderr, flush=True)
        return None

    def handle(request: Request) -> Response:
        match (request.method, request.path.strip("/").split("/")):
            case ("GET", ["health"]):
                return json_response({"status": "reviews is healthy", "version": settings.version})
            case ("GET", ["reviews", product]) if product.isascii() and product.isdigit():
                ratings = ratings_of(int(product), request, stars) if stars else {}
                return json_response(_reviews(product, settings.version, ratings))
            case ("GET", ["reviews", product]):
                return json_response({"error": f"a product's id must be a number, got {product!r}"}, 400)
        return not_found(request)

    return handle


def _reviews(product: str, version: str, ratings: dict[str, Any] | None) -> dict[str, Any]:
    """Return the body of an answer: the tutorials' shape, plus the version that wrote it."""
    reviews: list[dict[str, Any]] = []
    for reviewer, text in REVIEWS:
        rating = NO_RATING if ratings is None else ratings.get(reviewer)
        reviews.append({"reviewer": reviewer, "text": text, **({"rating": rating} if rating else {})})
    return {
        "id": product,
        "podname": f"reviews-{version}",
        "clustername": "null",
        "version": version,
        "reviews": reviews,
    }


if __name__ == "__main__":
    sys.exit(run_service("reviews", build_reviews))
