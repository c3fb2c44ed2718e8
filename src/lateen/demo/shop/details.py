"""The details service: what is printed on a book's back. `GET /details/<id>`, `GET /health`."""

from __future__ import annotations

import sys

from lateen.demo.shop.messages import Handler, Request, Response, json_response, not_found
from lateen.demo.shop.serving import run_service
from lateen.demo.shop.settings import ShopSettings

__all__ = ["build_details"]

BOOK = {
    "author": "Joshua Slocum",
    "year": 1900,
    "type": "paperback",
    "pages": 294,
    "publisher": "Dover",
    "language": "English",
    "ISBN-10": "0486203263",
    "ISBN-13": "978-0486203263",
}


def build_details(settings: ShopSettings) -> Handler:
    """Return the handler of the details service; every version is the same."""

    def handle(request: Request) -> Response:
        match (request.method, request.path.strip("/").split("/")):
            case ("GET", ["health"]):
                return json_response({"status": "details is healthy", "version": settings.version})
            case ("GET", ["details", product]) if product.isascii() and product.isdigit():
                return json_response({"id": int(product), **BOOK})
            case ("GET", ["details", product]):
                return json_response({"error": f"a product's id must be a number, got {product!r}"}, 400)
        return not_found(request)

    return handle


if __name__ == "__main__":
    sys.exit(run_service("details", build_details))
