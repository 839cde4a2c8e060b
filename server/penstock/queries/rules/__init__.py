"""All rules of printing: the syntax that a statement may be made of."""

from penstock.queries.printing import Rules
from penstock.queries.rules import expressions, queries, values

RULES: Rules = {**queries.rule.rules, **values.rule.rules, **expressions.rule.rules}
