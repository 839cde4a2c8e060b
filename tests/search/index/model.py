"""What the index must answer, in the plainest way: a dictionary of products, and every question asked of each."""

from dataclasses import dataclass, field, replace

import numpy as np

from penstock.search.index import (
    Between,
    Category,
    Change,
    Condition,
    Delete,
    Document,
    Except,
    Filter,
    InStock,
    Keywords,
    Only,
    SetVector,
    Upsert,
    Vectors,
)


@dataclass
class Model:
    """Products by id."""

    products: dict[str, Document] = field(default_factory=dict)

    def apply(self, change: Change) -> None:
        match change:
            case Upsert(document, keep_vector):
                before = self.products.get(document.product_id)
                if keep_vector and document.vector is None and before is not None:
                    document = replace(document, vector=before.vector)
                self.products[document.product_id] = document
            case Delete(product_id):
                self.products.pop(product_id, None)
            case SetVector(product_id, vector):
                if product_id in self.products:
                    self.products[product_id] = replace(self.products[product_id], vector=vector)

    def matching(self, wanted: Filter) -> set[str]:
        return {
            product_id
            for product_id, document in self.products.items()
            if document.is_active and all(_holds(condition, document) for condition in wanted.conditions)
        }

    def cosines(self, query: Vectors, among: set[str]) -> dict[str, float]:
        found = {}
        for product_id in among:
            vector = self.products[product_id].vector
            if vector is not None:
                a, b = query.astype(np.float64), vector.astype(np.float64)
                found[product_id] = float(a @ b / np.sqrt((a @ a) * (b @ b)))
        return found

    def counts(self, name: str, among: set[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for product_id in among:
            value = self.products[product_id].keywords.get(name, "").strip().casefold()
            if value:
                counts[value] = counts.get(value, 0) + 1
        return counts


def _holds(condition: Condition, document: Document) -> bool:
    match condition:
        case Keywords(names, values):
            wanted = {value.strip().casefold() for value in values}
            has = (document.keywords.get(name, "").strip().casefold() for name in names)
            return any(value and value in wanted for value in has)
        case Category(subtrees, ids):
            path = tuple(name.casefold() for name in document.category_path)
            below = any(path[: len(tree)] == tuple(name.casefold() for name in tree) for tree in subtrees if tree)
            return below or document.keywords.get("category_id", "").strip().casefold() in {
                each.casefold() for each in ids
            }
        case Between(number, low, high):
            value = document.numbers.get(number)
            return value is not None and (low is None or value >= low) and (high is None or value <= high)
        case InStock(value):
            return document.in_stock == value
        case Only(product_ids):
            return document.product_id in product_ids
        case Except(product_ids):
            return document.product_id not in product_ids
