"""Twenty thousand packshots that are the same as last night are listed, not read."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest
from PIL import Image

from wanflow import inputs as inputs_module
from wanflow.allowed import Allowed
from wanflow.decoder import decoder
from wanflow.errors import InputError
from wanflow.inputs import RULES, Inputs
from wanflow.memo import InputMemo
from wanflow.storage import Store, validators


def picture(path: Path, colour: int, age_s: float = 10.0) -> None:
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    old = time.time() - age_s
    os.utime(path, (old, old))


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test are young; only one test is about that."""
    monkeypatch.setattr(validators, "SETTLED_NS", 0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is opened."""
    found: list[bytes] = []
    real = decoder.problem

    def counted(kind: str, data: bytes, max_pixels: int = 0) -> tuple[str, str] | None:
        found.append(data)
        return real(kind, data, max_pixels)

    monkeypatch.setattr(decoder, "problem", counted)
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that are read."""
    found: list[str] = []
    real = inputs_module._read

    def counted(place: str, max_bytes: int, allowed: Allowed | None = None) -> bytes:
        found.append(place)
        return real(place, max_bytes, allowed)

    monkeypatch.setattr(inputs_module, "_read", counted)
    return found


def look_at(folder: Path | str, names: list[str], workspace: Store, rules: str = RULES) -> dict[str, str]:
    """A night: name -> digest, the memo loaded and saved."""
    memo = InputMemo.load(workspace, rules)
    found = Inputs(Path("/"), memo=memo)
    urls = [f"{folder}/{name}" for name in names]
    found.prefetch_images(urls)
    digests = {name: found.image(url).digest for name, url in zip(names, urls, strict=True)}
    memo.save(workspace)
    return digests


@pytest.mark.parametrize("number", [3, validators.LIST_FILES])
def test_unchanged_images_are_not_read_again(tmp_path: Path, reads: list[str], number: int) -> None:
    workspace = Store(str(tmp_path / "work"))
    names = [f"{i}.png" for i in range(number)]
    for i, name in enumerate(names):
        picture(tmp_path / name, i % 256)
    first = look_at(tmp_path, names, workspace)
    assert len(reads) == number
    assert look_at(tmp_path, names, workspace) == first
    assert len(reads) == number


def test_image_that_was_replaced_in_place_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    """Same name, same size, even the same date: the bytes decide."""
    workspace = Store(str(tmp_path / "work"))
    path = tmp_path / "a.bmp"
    picture(path, 1)
    before = look_at(tmp_path, ["a.bmp"], workspace)
    stamp, size = path.stat().st_mtime_ns, path.stat().st_size
    Image.new("RGB", (8, 8), (2, 0, 0)).save(path)
    os.utime(path, ns=(stamp, stamp))
    assert path.stat().st_size == size
    assert look_at(tmp_path, ["a.bmp"], workspace) != before
    assert len(reads) == 2


def test_file_that_is_still_warm_is_not_trusted(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the clock's grain a second write leaves no trace."""
    monkeypatch.setattr(validators, "SETTLED_NS", 3_600 * 10**9)
    workspace = Store(str(tmp_path / "work"))
    picture(tmp_path / "a.png", 1)
    look_at(tmp_path, ["a.png"], workspace)
    look_at(tmp_path, ["a.png"], workspace)
    assert len(reads) == 2


def test_bytes_that_have_passed_are_not_opened_again(
    tmp_path: Path, reads: list[str], decoded: list[bytes]
) -> None:
    """An export that writes twenty thousand equal logos anew every night: hashing them is quick, decoding is not."""
    workspace = Store(str(tmp_path / "work"))
    picture(tmp_path / "a.png", 1)
    look_at(tmp_path, ["a.png"], workspace)
    picture(tmp_path / "a.png", 1, age_s=5.0)
    picture(tmp_path / "b.png", 1)
    look_at(tmp_path, ["a.png", "b.png"], workspace)
    assert (len(reads), len(decoded)) == (3, 1)
    look_at(tmp_path, ["a.png"], workspace, rules="tighter")
    assert len(decoded) == 2, "what older rules let pass is looked at again"


def test_bytes_of_a_store_that_says_nothing_are_not_opened_again(
    tmp_path: Path, reads: list[str], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that nobody can vouch for is read every night."""
    monkeypatch.setattr(validators, "SETTLED_NS", 3_600 * 10**9)
    workspace = Store(str(tmp_path / "work"))
    picture(tmp_path / "a.png", 1)
    look_at(tmp_path, ["a.png"], workspace)
    look_at(tmp_path, ["a.png"], workspace)
    assert (len(reads), len(decoded)) == (2, 1)


def test_bad_image_is_never_remembered_as_good(tmp_path: Path, reads: list[str]) -> None:
    workspace = Store(str(tmp_path / "work"))
    (tmp_path / "a.png").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(InputError, match="not an image"):
            look_at(tmp_path, ["a.png"], workspace)
    assert len(reads) == 2


def test_other_rules_look_again(tmp_path: Path, reads: list[str]) -> None:
    """A wanflow with a tighter limit must not trust what the looser one let pass."""
    workspace = Store(str(tmp_path / "work"))
    picture(tmp_path / "a.png", 1)
    look_at(tmp_path, ["a.png"], workspace)
    look_at(tmp_path, ["a.png"], workspace, rules="tighter")
    assert len(reads) == 2


def test_damaged_memo_costs_time_only(tmp_path: Path, reads: list[str]) -> None:
    workspace = Store(str(tmp_path / "work"))
    picture(tmp_path / "a.png", 1)
    first = look_at(tmp_path, ["a.png"], workspace)
    workspace.write("inputs-memo.parquet", b"no table")
    assert look_at(tmp_path, ["a.png"], workspace) == first
    assert len(reads) == 2


@pytest.mark.parametrize("number", [2, validators.LIST_FILES])
def test_object_stores_are_asked_for_their_etags(
    s3_url: str, tmp_path: Path, reads: list[str], number: int
) -> None:
    workspace, shop = Store(str(tmp_path / "work")), Store(f"{s3_url}/{secrets.token_hex(4)}")
    names = [f"{i}.png" for i in range(number)]
    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 2)
    for name in names:
        shop.write(name, tmp_path / "a.png")
    first = look_at(shop.url, names, workspace)
    assert len(reads) == number
    shop.write(names[0], tmp_path / "b.png")
    second = look_at(shop.url, names, workspace)
    assert reads[number:] == [f"{shop.url}/{names[0]}"]
    assert [name for name in names if first[name] != second[name]] == [names[0]]


def test_memo_keeps_no_urls(tmp_path: Path) -> None:
    """A signed URL is a credential."""
    workspace = Store(str(tmp_path / "work"))
    picture(tmp_path / "very-secret.png", 1)
    look_at(tmp_path, ["very-secret.png"], workspace)
    assert b"very-secret" not in workspace.read("inputs-memo.parquet")
