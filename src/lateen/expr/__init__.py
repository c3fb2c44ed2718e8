"""Expressions of rules: CEL over the attributes of requests and connections. Knows no Envoy and no mesh."""

from lateen.expr.attributes import ATTRIBUTES, BY_NAME, Attribute, Phase, Type
from lateen.expr.errors import ExpressionError
from lateen.expr.expression import ABSENT, Absent, Activation, Expression, Read, compile_expression

__all__ = [
    "ABSENT",
    "ATTRIBUTES",
    "BY_NAME",
    "Absent",
    "Activation",
    "Attribute",
    "Expression",
    "ExpressionError",
    "Phase",
    "Read",
    "Type",
    "compile_expression",
]
