"""What products are filtered by, counted by and ordered by: columns that only grow.

A product that changes is a new row; which row is a product's own, a version knows. Numbers are dense columns. Texts
are entries (row, code) by name: most attributes are of few products, and a dense column of each of a thousand names
would take 400 kB for every 100,000 products.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from penstock.search.index.document import Bools, Document, Ints, Number
from penstock.search.index.growing import Growing

CATEGORY = "category"
BETWEEN_NAMES = "\x1f"  # in the value of a category: no name has it


def folded(text: str) -> str:
    """What two texts have in common that are equal without regard to case."""
    return text.strip().casefold()


class Keyword:
    """The entries of one name: rows that have a value, in order, and the codes of the values."""

    __slots__ = ("_code", "codes", "rows", "values")

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values = list(values)  # by code, as first written
        self._code = {folded(value): code for code, value in enumerate(self.values)}
        self.rows: Growing[np.int32] = Growing(np.int32)
        self.codes: Growing[np.int32] = Growing(np.int32)

    def code(self, value: str) -> int | None:
        """The code of a value, if a row ever had it."""
        return self._code.get(folded(value))

    def add(self, row: int, value: str) -> int:
        """Adds an entry, behind those of all rows before."""
        key = folded(value)
        code = self._code.get(key)
        if code is None:
            code = len(self.values)
            self.values.append(value.strip())
            self._code[key] = code
        # The row last: whoever counts rows finds the code of each.
        self.codes.add(code)
        self.rows.add(row)
        return code

    def at(self, row: int) -> int | None:
        """The code of a row's value."""
        rows, codes = self.entries(row + 1)
        return int(codes[-1]) if len(rows) and rows[-1] == row else None

    def among(self, rows: Ints) -> Ints:
        """The codes of the values of rows, in any order; -1 where there is none."""
        with_value = self.rows.view()
        codes = self.codes.view(len(with_value))
        if not len(with_value):
            return np.full(len(rows), -1, np.int32)
        places = np.minimum(np.searchsorted(with_value, rows), len(with_value) - 1)
        return np.where(with_value[places] == rows, codes[places], np.int32(-1)).astype(np.int32)

    def counts(self, mask: Bools) -> "npt.NDArray[np.intp]":
        """(values,): how many of the rows that the mask chooses have each value."""
        rows, codes = self.entries(len(mask))
        return np.bincount(codes[mask[rows]], minlength=len(self.values))

    def keep(self, place: Ints, made: "Keyword") -> None:
        """Adds to `made`, which is empty, the entries of rows that have a place there (-1: none), and their values."""
        rows, codes = self.entries(len(place))
        kept = place[rows] >= 0
        used, again = np.unique(codes[kept], return_inverse=True)
        made.values = [self.values[code] for code in used.tolist()]
        made._code = {folded(value): code for code, value in enumerate(made.values)}
        made.codes.append(again.astype(np.int32))
        made.rows.append(place[rows[kept]])

    def entries(self, rows: int) -> tuple[Ints, Ints]:
        """Rows below `rows` that have a value, ascending, and their codes."""
        with_value = self.rows.view()
        count = int(np.searchsorted(with_value, np.int32(rows)))  # of their own type, or all are converted first
        return with_value[:count], self.codes.view(count)

    @property
    def nbytes(self) -> int:
        """Memory, the texts of values at a guess of 120 bytes each with their places in list and dictionary."""
        return self.rows.nbytes + self.codes.nbytes + 120 * len(self.values)


class Columns:
    """All columns. One thread adds; any may read the rows that its version has."""

    def __init__(self) -> None:
        self.product: Growing[np.int32] = Growing(np.int32)
        self.numbers: dict[Number, Growing[np.float64]] = {number: Growing(np.float64) for number in Number}
        self.in_stock: Growing[np.bool_] = Growing(np.bool_)
        self.is_active: Growing[np.bool_] = Growing(np.bool_)
        self.keywords: dict[str, Keyword] = {}
        self.category = Keyword()
        self.paths: list[tuple[str, ...]] = []  # by code of `category`
        self._below: dict[tuple[str, ...], list[int]] = {}

    def __len__(self) -> int:
        return len(self.product)

    def add(self, product: int, document: Document) -> int:
        """Adds a row for a product and returns its number."""
        row = len(self.product)
        for number, column in self.numbers.items():
            column.add(document.numbers.get(number, np.nan))
        self.in_stock.add(document.in_stock)
        self.is_active.add(document.is_active)
        for name, value in document.keywords.items():
            if value.strip():
                self._keyword(name).add(row, value)
        if document.category_path:
            self._add_category(row, document.category_path)
        self.product.add(product)
        return row

    def below(self, path: tuple[str, ...]) -> list[int]:
        """The codes of the categories that are the path or stand below it."""
        return self._below.get(tuple(folded(name) for name in path), [])

    def document(self, row: int, product_id: str) -> Document:
        """What the row says of a product, without texts and vector: to be added elsewhere."""
        numbers = {number: float(column.view()[row]) for number, column in self.numbers.items()}
        category = self.category.at(row)
        return Document(
            product_id,
            title="",
            numbers={number: value for number, value in numbers.items() if not np.isnan(value)},
            in_stock=bool(self.in_stock.view()[row]),
            is_active=bool(self.is_active.view()[row]),
            keywords={
                name: keyword.values[code]
                for name, keyword in list(self.keywords.items())
                if (code := keyword.at(row)) is not None
            },
            category_path=() if category is None else self.paths[category],
        )

    def kept(self, rows: Ints, products: Ints) -> "Columns":
        """New columns of these rows (ascending), which are of these products there."""
        made = Columns()
        made.product.append(products)
        for number, column in self.numbers.items():
            made.numbers[number].append(column.view()[rows])
        made.in_stock.append(self.in_stock.view()[rows])
        made.is_active.append(self.is_active.view()[rows])
        place = np.full(len(self), -1, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        for name, keyword in list(self.keywords.items()):
            keyword.keep(place, kept := Keyword())
            if len(kept.rows):
                made.keywords[name] = kept
        self.category.keep(place, made.category)
        for value in made.category.values:
            made.add_path(tuple(value.split(BETWEEN_NAMES)))
        return made

    def _keyword(self, name: str) -> Keyword:
        keyword = self.keywords.get(name)
        if keyword is None:
            keyword = self.keywords[name] = Keyword()
        return keyword

    def _add_category(self, row: int, path: tuple[str, ...]) -> None:
        names = tuple(name.strip() for name in path)
        value = BETWEEN_NAMES.join(names)
        if self.category.code(value) is None:
            self.add_path(names)
        self.category.add(row, value)

    def add_path(self, path: tuple[str, ...]) -> None:
        """Names the next code of `category`."""
        code = len(self.paths)
        self.paths.append(path)
        for depth in range(1, len(path) + 1):
            self._below.setdefault(tuple(folded(name) for name in path[:depth]), []).append(code)

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        dense = self.product.nbytes + self.in_stock.nbytes + self.is_active.nbytes
        numbers = sum(column.nbytes for column in self.numbers.values())
        return dense + numbers + sum(keyword.nbytes for keyword in [self.category, *list(self.keywords.values())])
