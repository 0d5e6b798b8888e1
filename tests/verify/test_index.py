"""Verify reads publish records from their index where it knows them as they are listed, and trusts it no further."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.verify.conftest import Place, broken
from wanflow.storage import Store


def asked(place: Place, monkeypatch: pytest.MonkeyPatch, deep: bool) -> list[str]:
    """The publish records that a look asks for."""
    seen: list[str] = []
    real = Store.get

    def get(store: Store, path: str, max_bytes: int | None = None) -> object:
        seen.append(path)
        return real(store, path, max_bytes)

    monkeypatch.setattr(Store, "get", get)
    assert broken(place.verify(deep)) == {}
    return [path for path in seen if path.startswith("published/")]


def test_records_that_the_index_knows_cost_no_request(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them would be a million requests; --deep makes them all the same."""
    assert asked(place, monkeypatch, deep=False) == []
    assert len(asked(place, monkeypatch, deep=True)) == 3


def test_a_record_that_changed_since_the_index_is_read_itself(place: Place) -> None:
    """Its ETag is another one, whatever the index says."""
    place.edit(place.one("published/*/*/*.json"), lambda body: body.update(files=[]))
    found = broken(place.verify())
    assert len(found["publish-records"]) == 1
    assert {"foreign", "results"} <= set(found)


def test_without_an_index_every_record_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a cache: absent or damaged, nothing is missed."""
    place.one("published-*.parquet").write_bytes(b"no parquet")
    assert len(asked(place, monkeypatch, deep=False)) == 3


def test_an_index_that_lies_is_found_by_deep(place: Place) -> None:
    """A run would plan by it: another key under the record's own ETag."""
    path = place.one("published-*.parquet")
    table = pq.read_table(path)
    keys = pa.array(["0" * 64] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("key"), "key", keys), path)
    assert broken(place.verify(deep=True))["index"] == [path.name] * 3
    assert json.loads(place.one("published/*/*/*.json").read_text())["key"] != "0" * 64
