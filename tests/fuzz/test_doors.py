"""Whatever is thrown at a door, only wanflow's own errors come out, and nothing is written beside the door."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.fuzz.conftest import count
from tests.inputs.conftest import ENGINES
from tests.sounds import tone, write_sound
from tests.videos import write_video
from wanflow.allowed import Allowed
from wanflow.assemble.fonts import load, packaged, static
from wanflow.captions import MAX_AT_ONCE, one_at_a_time
from wanflow.decoder import Fit, decoder
from wanflow.errors import BadRow, InputError, WanflowError
from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.job.text import apply_sets, parse_yaml, substitute
from wanflow.manifest import read_variants
from wanflow.pictures import upright_srgb
from wanflow.storage import check_publish_path
from wanflow.templates import MAX_CHARS, Template
from wanflow.where import parse_where

NASTY = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\x1b[2J",
        "\u202e",
        "../",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://127.0.0.1/x.png",
        "{{ 7*7 }}",
        "${HOME}",
        "'",
        '"',
        "\\",
        "%s",
        "=1+1",
        "NaN",
        "1e999",
        "-0",
        "9" * 400,
        "é",
        "e\u0301",
        "\ud800",
        "con",
        "a.mp4/b",
        "*",
        "http://[::1/",
        "s3://",
        "x" * 300,
    ]
)
TEXT = st.one_of(NASTY, st.text(max_size=40), st.lists(NASTY, max_size=4).map("".join))
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
JOB: dict[str, Any] = {
    "wanflow": 1,
    "name": "fuzz",
    "manifest": {"url": "rows.parquet"},
    "engine": {"checkpoint": "pocket"},
    "clip": {"prompt": "{{ prompt }}", "aspect": "16x9", "seconds": 2},
    "layers": [
        {"text": {"value": "{{ headline }}"}},
        {"image": {"url": "{{ image }}"}},
        {"box": {"color": "#fff"}},
    ],
    "outputs": [{"name": "wide", "preset": "linkedin"}],
    "publish": {"url": "out", "path": "{{ variant_id }}/{{ output }}.mp4", "carry": ["headline"]},
}
COLUMNS = [
    "variant_id",
    "prompt",
    "image",
    "negative_prompt",
    "seed",
    "aspect",
    "seconds",
    "priority",
    "headline",
]
#: of a row that is taken as it is
GOOD = {"variant_id": "v{}", "prompt": "waves", "headline": "Hello {}", "image": "", "aspect": "16x9"}


def good(name: str, number: int) -> str | None:
    return GOOD[name].format(number) if name in GOOD else None


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, each in inner for p in paths_of(each, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@given(st.sampled_from(paths_of(JOB)[1:]), VALUE, st.one_of(st.none(), TEXT))
def test_a_job_with_anything_anywhere_is_taken_or_refused(
    path: tuple[Any, ...], new: Any, name: str | None
) -> None:
    data = replaced(JOB, path, new)
    if name is not None and isinstance(data, dict):
        data[name] = new
    try:
        job = Job.from_dict(data, "/tmp")
        job.allowed()
        count("job", "taken")
    except WanflowError:
        count("job", "refused")


@given(
    st.one_of(TEXT, st.text(alphabet="{}[]:-&*!|>%@`'\" \n\t#,?ab01<", max_size=200)),
    st.lists(TEXT, max_size=2),
)
def test_any_text_as_yaml_and_sets(text: str, sets: list[str]) -> None:
    try:
        substitute(apply_sets(parse_yaml(text, "job.yaml"), sets), {})
        count("yaml", "taken")
    except WanflowError:
        count("yaml", "refused")


_ROW = st.dictionaries(st.sampled_from(COLUMNS), st.one_of(SCALAR, st.lists(TEXT, max_size=2)), max_size=9)


@given(st.lists(_ROW, min_size=1, max_size=4))
def test_rows_of_any_values_become_variants_or_bad_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    columns = {name: [row.get(name, good(name, i)) for i, row in enumerate(rows)] for name in COLUMNS}
    try:
        table = pa.table(columns)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        table = pa.table(
            {n: [None if v is None else ascii(v) for v in values] for n, values in columns.items()}
        )
    pq.write_table(table, folder / "rows.parquet")
    _read(folder, JOB, "rows")


@given(st.binary(max_size=300), st.sampled_from(["json", "csv", "parquet"]), st.booleans())
def test_files_of_any_bytes_are_taken_or_refused(folder: Path, data: bytes, kind: str, headed: bool) -> None:
    heads = {
        "json": b'{"variant_id":"a","image":"","headline":"h","prompt":',
        "csv": b"variant_id,image,headline,prompt\na,,h,",
        "parquet": b"PAR1",
    }
    (folder / f"m.{kind}").write_bytes((heads[kind] if headed else b"") + data)
    _read(folder, {**JOB, "manifest": {"url": f"m.{kind}"}}, "file")


@given(st.lists(VALUE, max_size=4))
def test_json_lines_of_any_values(folder: Path, values: list[Any]) -> None:
    rows = [{"variant_id": f"v{i}", "image": "", "prompt": v, "headline": v} for i, v in enumerate(values)]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    _read(folder, {**JOB, "manifest": {"url": "m.jsonl"}}, "jsonl")


@given(st.data())
def test_a_damaged_parquet_file(folder: Path, data: st.DataObject) -> None:
    """Bits of a real file turned over: lengths, offsets, types."""
    content = bytearray(_good_parquet())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "m.parquet").write_bytes(content)
    _read(folder, {**JOB, "manifest": {"url": "m.parquet"}}, "parquet")


def test_rows_that_are_good_are_taken_at_each_door(folder: Path) -> None:
    """What the doors refuse they must refuse for what is wrong with it: the rest of each input is good."""
    rows = [{name: good(name, i) for name in COLUMNS} for i in range(3)]
    lines = [json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows]
    (folder / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "m.csv").write_text("variant_id,image,headline,prompt\na,,h,waves", encoding="utf-8")
    (folder / "m.parquet").write_bytes(_good_parquet())
    for name in ("m.jsonl", "m.csv", "m.parquet"):
        assert _read(folder, {**JOB, "manifest": {"url": name}}, "good") == "taken", name


def _good_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({name: [good(name, i) for i in range(20)] for name in COLUMNS}), file)
    return file.getvalue()


def _read(folder: Path, data: dict[str, Any], door: str) -> str:
    """``taken`` or ``refused``."""
    before = names(folder)
    try:
        job = Job.from_dict(data, folder)
        found = list(read_variants(job, ENGINES, Inputs(folder, allowed=job.allowed())))
        for each in found:
            if isinstance(each, BadRow):
                assert len(each.reason) <= 2000
                assert each.reason.isprintable() or "\n" in each.reason or not each.reason.isascii()
            else:
                for _, path in each.outputs:
                    check_publish_path(path)
        outcome = "refused" if any(isinstance(each, BadRow) for each in found) else "taken"
    except WanflowError:
        outcome = "refused"
    count(door, outcome)
    assert names(folder) == before
    return outcome


_WORDS = [
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "if ",
    "endif",
    "set ",
    "a",
    "b",
    "=",
    "~",
    "+",
    "*",
    "**",
    "%",
    "|",
    "upper",
    "replace(",
    "join(",
    "round(",
    "(",
    ")",
    "[",
    "]",
    ",",
    "'x'",
    "'__class__'",
    ".__class__",
    ".a",
    "1",
    "9999999999",
    "not ",
    "for ",
    "in ",
    "else",
    "is ",
    "defined",
    "{#",
    "#}",
    "-",
    "raw",
    "\n",
    "loop",
    "range(",
    ":",
]


@given(st.one_of(TEXT, st.lists(st.sampled_from(_WORDS), max_size=30).map("".join)), VALUE, TEXT)
def test_any_template_gives_text_or_a_reason(text: str, a: Any, b: str) -> None:
    try:
        template = Template(text)
        shown = template.render({name: {"a": a, "b": b}.get(name, b) for name in template.names})
        assert isinstance(shown, str)
        assert len(shown) <= MAX_CHARS
        assert "<class" not in shown or "<class" in text + b + str(a)
        count("template", "taken")
    except ValueError:
        count("template", "refused")


_TERMS = [
    "a",
    '"b c"',
    "`d`",
    " = ",
    " != ",
    " < ",
    "and ",
    "or ",
    "not ",
    "in ",
    "is ",
    "null",
    "true",
    "(",
    ")",
    ",",
    "'x'",
    "''",
    "1",
    "-2.5",
    "1e9",
    "'",
    '"',
    ";",
    "--",
    "*",
]


@given(st.one_of(TEXT, st.lists(st.sampled_from(_TERMS), max_size=30).map(" ".join)))
def test_any_condition_is_parsed_or_refused(text: str) -> None:
    try:
        parse_where(text)
        count("where", "taken")
    except ValueError:
        count("where", "refused")


def _pictures() -> list[bytes]:
    """Of every format, with a colour profile and lying on its side where it can; a palette and 16 bits too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = Image.effect_noise((24, 24), 80)
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (noise.convert("RGB"), kind, {}) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
    ]
    made += [
        (noise.convert("P"), "PNG", {"transparency": 0}),
        (noise.convert("I;16"), "PNG", {"transparency": 9}),
    ]
    found = []
    for picture, kind, options in made:
        file = io.BytesIO()
        picture.save(file, kind, icc_profile=profile, exif=exif, **options)
        found.append(file.getvalue())
    return found


_PICTURES = _pictures()
_FONT = packaged("poppins/Poppins-Medium.ttf").read_bytes()


@given(st.data())
def test_damaged_pictures_are_taken_or_refused(folder: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(_PICTURES)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))
    (folder / "a.png").write_bytes(content[:end])
    try:
        Inputs(folder).image("a.png")
        count("image", "taken")
        with warnings.catch_warnings(action="ignore"), Image.open(folder / "a.png") as opened:
            assert upright_srgb(opened).mode in ("RGB", "RGBA"), "what planning takes can be shown"
    except InputError:
        count("image", "refused")


@given(st.data())
def test_damaged_fonts_are_taken_or_refused(folder: Path, data: st.DataObject) -> None:
    content = bytearray(_FONT)
    end = data.draw(st.sampled_from([300, 2000, len(content)]))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(4, end - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.ttf").write_bytes(content)
    try:
        Inputs(folder).font("a.ttf")
        count("font", "taken")
        made = static.__wrapped__(folder / "a.ttf", 700)
        assert load.__wrapped__(made).name, "what planning takes can be used"
    except InputError:
        count("font", "refused")


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[bytes]:
    frames = [20 * i for i in range(8)]
    kinds = (("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx"), ("mov", "mpeg4"))
    made = [write_video(folder / f"good.{kind}", frames, 8, (32, 32), codec) for kind, codec in kinds]
    found = [path.read_bytes() for path in made]
    for path in made:
        path.unlink()
    return found


@given(st.data())
def test_damaged_videos_are_taken_or_refused(folder: Path, videos: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(videos)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))
    (folder / "a.mp4").write_bytes(content[:end])
    try:
        Inputs(folder).video("a.mp4", 5, 8.0)
        taken = len(list(decoder.frames(folder / "a.mp4", Fit(16, 16, 5, 8.0)))) == 5
        assert taken, "what planning takes can be rendered"
        count("video", "taken")
    except InputError:
        count("video", "refused")


@pytest.fixture(scope="module")
def sounds(folder: Path) -> list[bytes]:
    made = [
        write_sound(folder / f"good.{kind}", tone(0.2))
        for kind in ("wav", "mp3", "m4a", "flac", "ogg", "webm")
    ]
    found = [path.read_bytes() for path in made]
    for path in made:
        path.unlink()
    return found


@given(st.data())
def test_damaged_sounds_are_taken_or_refused(folder: Path, sounds: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(sounds)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))
    (folder / "a.mp3").write_bytes(content[:end])
    try:
        _, heard = Inputs(folder).sound("a.mp3")
        assert 0 <= heard.silence_s <= heard.seconds > 0
        count("sound", "taken")
    except InputError:
        count("sound", "refused")


_SUBTITLES = [
    "1\n00:00:00,500 --> 00:00:01,000\nHello\n\n2\n00:00:01,250 --> 00:00:01,750\nWorld <i>of</i>\nwords\n\n",
    "WEBVTT - x\nKind: y\n\nNOTE z\n\nSTYLE\n::cue {}\n\na\n00:00.500 --> 00:01.000 line:0\n<v Ann>R&amp;D &lt;\n",
]
_PIECES = [
    "\n",
    "\n\n",
    "\r",
    "-->",
    "->",
    "00:00:01,000",
    "99:99",
    "<",
    ">",
    "{\\an8}",
    "&#0;",
    "&#xD800;",
    "7",
    "NOTE",
]


@given(st.data())
def test_damaged_subtitles_are_taken_or_refused(folder: Path, data: st.DataObject) -> None:
    text = data.draw(st.lists(st.sampled_from(_SUBTITLES), min_size=1, max_size=3).map("".join))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(text)))
        new = data.draw(st.one_of(st.sampled_from(_PIECES), TEXT))
        text = text[:place] + new + text[place + data.draw(st.integers(0, 9)) :]
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"]))
    (folder / "a.srt").write_bytes(text.encode(encoding, "replace") + data.draw(st.binary(max_size=2)))
    try:
        cues = Inputs(folder).captions("a.srt")
        count("captions", "taken")
    except InputError:
        count("captions", "refused")
        return
    assert cues
    assert list(cues) == sorted(cues, key=lambda cue: cue.start_s)
    for cue in (*cues, *one_at_a_time(cues)):
        assert 0 <= cue.start_s < cue.end_s
        assert cue.text.strip()
        cue.text.encode()
    assert max(len(cue.text.splitlines()) for cue in one_at_a_time(cues)) <= MAX_AT_ONCE * max(
        len(cue.text.splitlines()) for cue in cues
    )


_PARTS = [
    "https://",
    "http://",
    "s3://",
    "file://",
    "/",
    "..",
    "%2e%2e",
    "@",
    ":",
    "[",
    "]",
    "::1",
    "cdn.example.com",
    "127.0.0.1",
    "?",
    "#",
    "\\",
    "\0",
    "\u202e",
    "é",
    "a.png",
    "~",
    "xn--",
    ".",
    "//",
    "0x7f",
    ":99999",
    "::",
]


@given(st.one_of(TEXT, st.lists(st.sampled_from(_PARTS), max_size=10).map("".join)))
def test_any_name_of_an_input_stays_inside(folder: Path, name: str) -> None:
    """What passes is below one of three places, whatever it is called."""
    allowed = Allowed([str(folder), "s3://dwh/", "https://cdn.example.com/"], folder)
    from wanflow.allowed import locate

    try:
        place = locate(name, folder)
        allowed.check(place)
    except InputError:
        count("name", "refused")
        return
    count("name", "taken")
    assert place.lower().startswith(
        (str(folder).lower(), "file://", "s3://dwh", "https://cdn.example.com")
    ), place
