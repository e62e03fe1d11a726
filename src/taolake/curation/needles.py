"""Looking for planted or personal values in bytes of any kind: many values, any file, one pass.

A value is looked for as it is and as JSON and HTML would write it. Not a tokeniser: a value inside a longer word counts
where it is long, and does not where it is short. What is compressed or drawn is not seen; Parquet is unpacked by
`blobs`.
"""

import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SHORTEST = 12  # characters of a text worth looking for: shorter ones are everybody's
_HEAD = 8  # bytes that are compared at once
_BLOCK = 1 << 26
FORGOTTEN = "[forgotten]"


class Needles:
    """Values to look for.

    Args:
        words: names and ids; one counts where no letter, digit or underscore stands right beside it.
        texts: what people wrote; one counts anywhere. Those under `SHORTEST` characters are left out.
    """

    def __init__(self, words: Iterable[str], texts: Iterable[str] = ()) -> None:
        self.words = frozenset(word for word in words if word)
        self.texts = frozenset(text for text in texts if len(text) >= SHORTEST)
        self._value = {form: word for word in self.words for form in forms(word)}
        self._value |= {form: text for text in self.texts for form in forms(text)}
        self._long: dict[bytes, list[bytes]] = {}
        for form in self._value:
            if len(form) >= _HEAD:
                self._long.setdefault(form[:_HEAD], []).append(form)
        self._short = [form for form in self._value if len(form) < _HEAD]
        self._longest = max(map(len, self._value), default=0)

    def __bool__(self) -> bool:
        return bool(self._value)

    def without(self, texts: Iterable[str]) -> "Needles":
        """The same less some texts."""
        return Needles(self.words, self.texts - set(texts))

    def found(self, blob: bytes) -> set[str]:
        """The values that are in it."""
        hits: set[str] = set()
        for start in range(0, max(1, len(blob)), _BLOCK):
            hits |= self._in_block(blob[max(0, start - self._longest - 1) : start + _BLOCK + 1])
        return hits

    def hit(self, text: str) -> bool:
        """Whether a text has any of them."""
        return bool(self.found(text.encode()))

    def _in_block(self, blob: bytes) -> set[str]:
        hits = {self._value[form] for form in self._short if _anywhere(form, blob)}
        for place, head in self._heads(blob):
            for form in self._long[head]:
                value = self._value[form]
                if value in hits or not blob.startswith(form, place):
                    continue
                if value in self.texts or _apart(blob, place, place + len(form)):
                    hits.add(value)
        return hits

    def _heads(self, blob: bytes) -> Iterator[tuple[int, bytes]]:
        """Places where eight bytes are the first eight of a value: one look-up a byte, however many values there are.

        Searching for each value in turn costs values times bytes: a user of a year has tens of thousands.
        """
        import numpy as np

        if not self._long or len(blob) < _HEAD:
            return
        known = np.sort(np.frombuffer(b"".join(self._long), "<u8"))
        for shift in range(_HEAD):
            seen = np.frombuffer(blob, "<u8", count=(len(blob) - shift) // _HEAD, offset=shift)
            near = np.minimum(np.searchsorted(known, seen), len(known) - 1)
            for index in np.flatnonzero(known[near] == seen).tolist():
                place = shift + index * _HEAD
                yield place, blob[place : place + _HEAD]


def forms(value: str) -> set[bytes]:
    """A value as text, as JSON with and without escapes, as JSON in JSON, and as HTML."""
    plain, escaped = json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]
    twice = {json.dumps(each, ensure_ascii=ascii_)[1:-1] for each in (plain, escaped) for ascii_ in (False, True)}
    pages = {html.escape(value), html.escape(value, quote=False), value.replace("'", "&#39;")}
    return {each.encode() for each in {value, plain, escaped, *twice, *pages}}


def blobs(path: Path) -> Iterator[bytes]:
    """What a file holds, a part at a time; of Parquet the text of every column."""
    if path.suffix != ".parquet":
        with path.open("rb") as handle:
            yield handle.read()
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield str(file.metadata.metadata).encode()
        for batch in file.iter_batches(4096):
            for column in batch.columns:
                yield from _texts(column)


def scan(folders: Iterable[Path], needles: Needles) -> dict[Path, set[str]]:
    """Every file below the folders that holds a value, and which."""
    files = sorted({path for folder in folders for path in folder.rglob("*") if path.is_file()})
    found = {path: {value for blob in blobs(path) for value in needles.found(blob)} for path in files}
    return {path: values for path, values in found.items() if values}


def scrubbed(value: Any, needles: Needles) -> Any:
    """A JSON value without the entries whose key, and with a mark for the texts, that hold a value."""
    match value:
        case str():
            return FORGOTTEN if needles.hit(value) else value
        case list():
            return [scrubbed(each, needles) for each in value]
        case dict():
            return {key: scrubbed(each, needles) for key, each in value.items() if not needles.hit(key)}
        case _:
            return value


def _texts(column: "pa.Array") -> Iterator[bytes]:
    """All texts of a column, also inside lists, structs and maps, one a line."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _texts(part)
    elif pa.types.is_map(kind):
        yield from _texts(column.keys)
        yield from _texts(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        whole = pc.drop_null(column).cast(pa.large_binary())
        yield b"\n".join(whole.to_pylist())


def _anywhere(form: bytes, blob: bytes) -> bool:
    """Whether a short value stands somewhere by itself."""
    place = blob.find(form)
    while place >= 0:
        if _apart(blob, place, place + len(form)):
            return True
        place = blob.find(form, place + 1)
    return False


def _apart(blob: bytes, start: int, end: int) -> bool:
    """Whether no word goes on to the left or the right."""
    return not (_letter(blob[start - 1 : start]) or _letter(blob[end : end + 1]))


def _letter(byte: bytes) -> bool:
    return byte.isalnum() or byte == b"_"
