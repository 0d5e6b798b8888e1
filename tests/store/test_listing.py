"""Listings as digests and records as columns: what planning holds of a million files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from wanflow.listing import Listing, WeightIndex, as_array, total_of, weigh
from wanflow.model import Record, Scalar, StoredFile
from wanflow.record_table import Records, table_of
from wanflow.storage import Stat

ANNA, BEN = Stat("anna.mp4", 5, "e1"), Stat("ben.mp4", 6, "e2")


def record(path: str, key: str = "k", info: Mapping[str, Scalar] = MappingProxyType({})) -> Record:
    return Record(key, (StoredFile(path, "ab" * 32, 5, "e"),), "1.1", tuple(info.items()), "etag")


def test_listing_shows_a_file_only_with_its_size_and_etag() -> None:
    """A video that somebody replaced is not the one that was published."""
    listing = Listing([ANNA, BEN])
    assert listing.shows("anna.mp4", 5, "e1")
    assert not listing.shows("anna.mp4", 5, "e9")
    assert not listing.shows("anna.mp4", 6, "e1")
    assert "anna.mp4" in listing
    assert "cleo.mp4" not in listing
    assert not Listing().shows("anna.mp4", 5, "e1")


def test_weights_are_found_among_any_number_of_others() -> None:
    """A million of them, and none that is only half the same: its file would count as published."""
    weights = [weigh(f"{number}.mp4", number, "e") for number in range(3000)]
    half = weights[7][:8] + bytes(8)
    index = WeightIndex(as_array(b"".join(weights)))
    asked = [weights[2999], weigh("other.mp4", 1, "e"), weights[0], half, weights[7]]
    assert index.positions(as_array(b"".join(asked))).tolist() == [2999, -1, 0, -1, 7]
    assert WeightIndex(as_array(b"")).positions(as_array(half)).tolist() == [-1]


def test_total_of_a_listing_is_that_of_its_entries_in_any_order_whatever_happened_since() -> None:
    """The next night compares it with a listing of its own."""
    listing = Listing([ANNA, BEN])
    assert listing.total == total_of([BEN, ANNA])
    younger = Stat("anna.mp4", 7, "e3")
    listing.put(younger)
    listing.put(Stat("cleo.mp4", 1, "e4"))
    listing.remove("ben.mp4")
    listing.remove("ben.mp4")
    assert listing.total == total_of([younger, Stat("cleo.mp4", 1, "e4")])
    assert listing.shows("anna.mp4", 7, "e3")
    assert "ben.mp4" not in listing


def test_record_comes_back_from_its_columns_with_every_fact() -> None:
    """Facts that have no column of their own, too, and those of another type than usual."""
    facts: dict[str, Scalar] = {
        "path": "a.mp4",
        "job": "spring",
        "cost": 0.5,
        "frames": 33,
        "made_at": "noon",
    }
    given = record("a.mp4", info=facts)
    found = Records(table_of([(given, b"w" * 16)]))["a.mp4"]
    assert dict(found.info) == facts
    assert (found, found.etag) == (Record(given.key, given.files, given.attempt, found.info), "etag")


def test_records_that_came_since_take_the_place_of_those_in_the_table() -> None:
    records = Records(table_of([(record("a.mp4", "old"), b"1" * 16), (record("b.mp4"), b"2" * 16)]))
    row = records.row_of("b.mp4")
    records["a.mp4"] = record("a.mp4", "new")
    assert records["a.mp4"].key == "new"
    assert sorted(records) == ["a.mp4", "b.mp4"]
    assert len(records) == 2
    del records["a.mp4"]
    assert "a.mp4" not in records
    assert records.get("a.mp4") is None
    assert records.row_of("b.mp4") == row, "a row keeps its number"
