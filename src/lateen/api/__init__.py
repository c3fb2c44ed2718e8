"""Istio's resources, and the few of Kubernetes that matter to a mesh: typed, decoded strictly, checked.

Import the module that has what you need; this package imports none of them.

    base          what every resource shares: `Object`, `Problem`, and how a struct is written
    decode        files and Kubernetes objects to checked resources; `encode` is the way back
    kinds         the table of all kinds
    hosts, names, protocol, regex_syntax, scalars   the small languages inside the fields
    check_...     what each kind must satisfy beyond its shape
"""

__all__: list[str] = []
