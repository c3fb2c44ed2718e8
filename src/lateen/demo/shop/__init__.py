"""The sample shop: productpage, details, reviews (v1, v2, v3), ratings. Run: `python -m lateen.demo.shop.details`.

Standard library only and nothing of the rest of the package: the services know nothing of the mesh they run in.
"""

__all__: list[str] = []
