"""Writes that never ended: what a kill leaves behind is named and can be discarded, on every kind of store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wanflow.errors import StoreError
from wanflow.storage import Store
from wanflow.storage.s3_client import client


def test_a_temporary_file_on_disk_is_named_and_discarded(tmp_path: Path) -> None:
    """A driver was killed while it wrote: listings do not show the half, a person with a file browser would."""
    store = Store(str(tmp_path))
    store.write("a/whole.json", b"x")
    (tmp_path / "a/.tmp-77-abc").write_bytes(b"half")
    (found,) = store.unfinished()
    assert (found.path, found.size_bytes) == ("a/.tmp-77-abc", 4)
    assert found.since_s > 0
    store.discard(found)
    store.discard(found)
    assert store.unfinished() == []
    assert [stat.path for stat in store.list()] == ["a/whole.json"]


def test_an_upload_that_was_never_completed_is_named_and_discarded(s3_url: str) -> None:
    """Its parts are billed for ever and no listing shows them."""
    store = Store(s3_url)
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client().call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/a/big.mp4")
    (found,) = store.unfinished()
    assert found.path == "a/big.mp4"
    assert found.upload_id
    store.discard(found)
    store.discard(found)
    assert store.unfinished() == []


def test_only_temporary_files_are_discarded(tmp_path: Path) -> None:
    """Whatever a caller hands over: a finished file is not an unfinished one."""
    store = Store(str(tmp_path))
    (tmp_path / ".tmp-1-a").write_bytes(b"half")
    store.write("whole.json", b"x")
    with pytest.raises(StoreError, match="no temporary file"):
        store.discard(replace(store.unfinished()[0], path="whole.json"))
