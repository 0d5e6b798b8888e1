"""The manifest's files: formats, places, types, row numbers, and what happens to broken ones."""

from __future__ import annotations

import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.inputs.conftest import Case
from wanflow.errors import ManifestError, StoreError
from wanflow.manifest.bombs import MAX_CELL_CHARS
from wanflow.manifest.table import Table

ROWS = [
    {"variant_id": "a", "prompt": "x", "country": "DE", "n": 1},
    {"variant_id": "b", "prompt": None, "country": "AT", "n": 2},
    {"variant_id": "c", "prompt": "z", "country": "DE", "n": None},
]


def read(
    url: Any, needed: tuple[str, ...] = ("variant_id", "prompt"), **options: Any
) -> list[tuple[int, dict[str, Any]]]:
    table = Table(str(url), options.pop("rename", None))
    found = list(table.rows(needed, **options))
    assert [problems for _, _, problems in found if problems] == []
    return [(number, values) for number, values, _ in found]


def test_a_parquet_file_gives_its_rows_numbered_from_one(case: Case) -> None:
    """Errors name rows as the file counts them, header aside."""
    path = case.rows(ROWS)
    assert read(path) == [
        (1, {"variant_id": "a", "prompt": "x"}),
        (2, {"variant_id": "b", "prompt": None}),
        (3, {"variant_id": "c", "prompt": "z"}),
    ]


def test_a_condition_keeps_the_numbers_of_the_rows(case: Case) -> None:
    """Row 3 of the file is row 3 in the report, whatever ``where`` left out."""
    path = case.rows(ROWS)
    assert [n for n, _ in read(path, conditions=["country = 'DE'"])] == [1, 3]
    assert [n for n, _ in read(path, conditions=["country = 'DE'", "n is null"])] == [3]


def test_a_condition_may_read_columns_that_no_template_needs(case: Case) -> None:
    """``OPTED_IN`` is for filtering, not for showing."""
    assert read(case.rows(ROWS), ("variant_id",), conditions=["n >= 2"]) == [(2, {"variant_id": "b"})]


def test_a_glob_and_a_directory_are_read_in_the_order_of_their_names(case: Case) -> None:
    """The warehouse writes part-0000 to part-0041; the plan must be the same every night."""
    case.rows(ROWS[1:], "data/part-1.parquet")
    case.rows(ROWS[:1], "data/part-0.parquet")
    (case.folder / "data" / "_SUCCESS").touch()
    for url in (case.folder / "data", case.folder / "data" / "*.parquet"):
        assert [(n, row["variant_id"]) for n, row in read(url)] == [(1, "a"), (2, "b"), (3, "c")]


def test_folders_of_a_partitioned_data_set_are_columns_of_text(case: Case) -> None:
    """``customer=007/`` must not become the number 7, and can be compared with numbers all the same."""
    case.rows(ROWS[:1], "data/customer=007/tier=__HIVE_DEFAULT_PARTITION__/a.parquet")
    case.rows(ROWS[1:], "data/customer=1%2F2/tier=3/b.parquet")
    found = read(case.folder / "data", ("variant_id", "customer", "tier"))
    assert found[0] == (1, {"variant_id": "a", "customer": "007", "tier": None})
    assert found[1] == (2, {"variant_id": "b", "customer": "1/2", "tier": "3"})
    assert [n for n, _ in read(case.folder / "data", conditions=["tier = 3"])] == [2, 3]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("excel.csv", '\ufeffvariant_id;prompt;n\r\n007;"hell; dunkel, 20 %";1,5\r\n'),
        ("export.tsv", "variant_id\tprompt\tn\n007\thell; dunkel, 20 %\t1,5\n"),
        ("plain.csv", 'variant_id,prompt,n;m\n007,"hell; dunkel, 20 %","1,5"\n'),
    ],
)
def test_the_header_says_what_stands_between_the_columns(tmp_path: Path, name: str, text: str) -> None:
    """A German Excel writes semicolons into what it calls CSV, a database's export tabs."""
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    number = "n;m" if name == "plain.csv" else "n"
    assert read(tmp_path / name, ("variant_id", "prompt", number)) == [
        (1, {"variant_id": "007", "prompt": "hell; dunkel, 20 %", number: "1,5"})
    ]


def test_csv_values_are_the_text_that_is_written(tmp_path: Path) -> None:
    """Excel's CSV: a byte order mark, ids with zeros in front, line breaks in quotes, gaps."""
    path = tmp_path / "m.csv"
    path.write_text(
        'variant_id,prompt,seed,OPTED_IN,price\n007,"two\nlines",5,true,1.10\n008,,,false,\n',
        encoding="utf-8-sig",
    )
    assert read(path, ("variant_id", "prompt", "seed", "price")) == [
        (1, {"variant_id": "007", "prompt": "two\nlines", "seed": 5, "price": "1.10"}),
        (2, {"variant_id": "008", "prompt": None, "seed": None, "price": None}),
    ]
    assert [n for n, _ in read(path, conditions=["OPTED_IN = true and price > 1"])] == [1]
    with pytest.raises(ManifestError, match="only where all of it reads so; else put that side in quotes"):
        read(path, conditions=["prompt > 3"])


def test_json_lines_keep_dates_as_text(tmp_path: Path) -> None:
    """A headline ``2026-01-31`` is a headline, not midnight."""
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"variant_id": "a", "headline": "2026-01-31", "aspect": ["9x16", "1x1"], "seed": 1}\n'
        '{"variant_id": "b", "headline": "2026-02-01", "aspect": null}\n'
    )
    assert read(path, ("variant_id", "headline", "aspect", "seed")) == [
        (1, {"variant_id": "a", "headline": "2026-01-31", "aspect": ["9x16", "1x1"], "seed": 1}),
        (2, {"variant_id": "b", "headline": "2026-02-01", "aspect": None, "seed": None}),
    ]


def test_a_manifest_is_read_from_an_object_store(case: Case, s3_url: str) -> None:
    """The warehouse exports to a bucket; nobody copies it first."""
    from wanflow.storage import Store

    for name, rows in (("day=1/a.parquet", ROWS[:1]), ("day=2/b.parquet", ROWS[1:])):
        Store(s3_url).write(name, case.rows(rows, name))
    expected = [("a", "1"), ("b", "2"), ("c", "2")]
    for url in (s3_url, f"{s3_url}/*/*.parquet", f"{s3_url}/"):
        assert [(row["variant_id"], row["day"]) for _, row in read(url, ("variant_id", "day"))] == expected
    with pytest.raises(ManifestError, match="there is no such file or directory"):
        Table(f"{s3_url}/nowhere.parquet")


def test_renamed_columns_have_our_names_everywhere(case: Case) -> None:
    """The warehouse says CUSTOMER_ID, and will not change it for us."""
    path = case.rows([{"CUSTOMER_ID": 7, "TEXT": "x", "prompt": "old"}])
    rename = {"variant_id": "CUSTOMER_ID", "prompt": "TEXT"}
    assert set(Table(str(path), rename).columns) == {"variant_id", "prompt"}
    assert read(path, conditions=["variant_id = 7"], rename=rename) == [(1, {"variant_id": 7, "prompt": "x"})]
    with pytest.raises(
        ManifestError, match=r"rename\.variant_id: .* has no column `CUSTOMERID`; did you mean `CUSTOMER_ID`"
    ):
        Table(str(path), {"variant_id": "CUSTOMERID"})


def test_matrix_multiplies_rows_and_conditions_see_its_values(case: Case) -> None:
    """``--only "locale = 'no'"`` renders the Norwegian tenth first."""
    path = case.rows(ROWS[:2])
    found = read(path, ("variant_id",), matrix={"locale": ["de", "no"], "size": [1]})
    assert [(n, row["locale"], row["size"]) for n, row in found] == [
        (1, "de", 1), (1, "no", 1), (2, "de", 1), (2, "no", 1),
    ]  # fmt: skip
    only = read(
        path, ("variant_id",), matrix={"locale": ["de", "no"]}, conditions=["locale = 'no' and n = 1"]
    )
    assert only == [(1, {"variant_id": "a", "locale": "no"})]


def test_files_whose_columns_grew_are_one_table(case: Case) -> None:
    """Yesterday's file has no ``badge`` column, and its numbers were narrower."""
    case.rows(
        pa.table({"variant_id": ["a"], "n": pa.array([1], pa.int32()), "e": pa.nulls(1)}), "d/1.parquet"
    )
    case.rows(
        pa.table({"variant_id": ["b"], "n": pa.array([2], pa.int64()), "e": ["x"], "badge": ["new"]}),
        "d/2.parquet",
    )
    found = read(case.folder / "d", ("variant_id", "n", "e", "badge"))
    assert [row for _, row in found] == [
        {"variant_id": "a", "n": 1, "e": None, "badge": None},
        {"variant_id": "b", "n": 2, "e": "x", "badge": "new"},
    ]


def test_files_that_store_text_differently_are_one_table(case: Case) -> None:
    """Spark's dictionaries, DuckDB's large strings and plain strings are all text."""
    for i, column in enumerate(
        [pa.array(["x"]).dictionary_encode(), pa.array(["y"], pa.large_string()), pa.array(["z"])]
    ):
        case.rows(pa.table({"variant_id": [str(i)], "prompt": column}), f"d/{i}.parquet")
    assert [row["prompt"] for _, row in read(case.folder / "d")] == ["x", "y", "z"]
    assert [n for n, _ in read(case.folder / "d", conditions=["prompt in ('x', 'z')"])] == [1, 3]


def test_a_file_may_be_named_as_a_url_and_without_an_ending(case: Case) -> None:
    """``file:///exports/tonight`` is a Parquet file to whoever named it so."""
    path = case.rows(ROWS, "tonight")
    assert [n for n, _ in read(f"file://{path}")] == [1, 2, 3]


def test_files_that_disagree_about_a_column_are_named(case: Case) -> None:
    """One export wrote ids as numbers, the other as text: say which, not "schema mismatch"."""
    case.rows([{"variant_id": "a", "n": 1}], "d/1.parquet")
    case.rows([{"variant_id": "b", "n": "one"}], "d/2.parquet")
    with pytest.raises(
        ManifestError, match=r"column `n` is int64 in .*1\.parquet and string in .*2\.parquet"
    ):
        Table(str(case.folder / "d"))


def test_an_outage_is_not_the_manifests_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4 would page whoever owns the data; exit 1 lets cron try again."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # the discard port: nobody listens
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="a later run may succeed"):
        Table("s3://bucket/rows.parquet")


def test_a_large_manifest_is_never_whole_in_memory(case: Case) -> None:
    """A million rows with long prompts must not be what the driver dies of."""
    num_rows = 60_000
    table = pa.table({"variant_id": [f"{i}" for i in range(num_rows)], "prompt": ["x" * 500] * num_rows})
    pq.write_table(table, case.folder / "rows.parquet", row_group_size=5000)
    tracemalloc.start()
    num_read = sum(1 for _ in Table(str(case.folder / "rows.parquet")).rows(["variant_id", "prompt"]))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_read == num_rows
    assert peak_bytes < 12_000_000


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """The most frequent failure of a nightly job: last night's export did not happen."""
    for name, words in (
        ("m.parquet", "no such file or directory"),
        ("*.csv", "no file matches"),
        ("d", "no such file"),
    ):
        with pytest.raises(ManifestError, match=words):
            Table(str(tmp_path / name))
    (tmp_path / "d").mkdir()
    with pytest.raises(ManifestError, match="or it is empty"):
        Table(str(tmp_path / "d"))
    (tmp_path / "d" / "notes.txt").touch()
    with pytest.raises(ManifestError, match=r"none of its 1 files is a \.csv"):
        Table(str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.parquet", b"this is no parquet", "is not a readable parquet file"),
        ("m.parquet", b"", "is not a readable parquet file"),
        ("m.csv", b"", "is not a readable csv file"),
        ("m.csv", b"variant_id,prompt\na,caf\xe9\n", "save it as UTF-8"),
        ("m.csv", "variant_id,prompt\na,x\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        ("m.csv", b"variant_id,prompt\na,b,c\n", "is not a readable csv file|cannot be read"),
        ("m.csv", b"variant_id,a,a\n1,2,3\n", "two columns are called `a`"),
        ("m.jsonl", b"[1, 2]", "one object a line"),
        ("m.jsonl", b'{"variant_id": "a"}\n{"variant_id": \n', "one object a line"),
        ("m.jsonl", b"", "is not a readable json file"),
    ],
)
def test_an_unreadable_manifest_is_answered_in_words(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """Whatever was uploaded under the manifest's name, exit 4 says what it is."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=words):
        read(tmp_path / name, ("variant_id", "seed", "prompt"))


def test_a_file_that_breaks_in_the_middle_is_named(case: Case) -> None:
    """A copy that was cut off has a footer or it has not; damage in between shows only while reading."""
    path = case.rows(
        pa.table({"variant_id": [str(i) for i in range(20_000)], "prompt": ["words " * 3] * 20_000})
    )
    data = bytearray(path.read_bytes())
    data[100:4000] = b"\0" * 3900
    path.write_bytes(bytes(data))
    with pytest.raises(ManifestError, match=r"rows\.parquet: cannot be read"):
        read(path)


def test_a_manifest_without_rows_is_an_error_and_one_without_matches_is_not(case: Case) -> None:
    """An empty export is a broken export; a night on which nobody opted in is a quiet night."""
    path = case.rows(ROWS)
    assert read(path, conditions=["n > 100"]) == []
    case.rows(pa.table({"variant_id": pa.array([], pa.string())}))
    with pytest.raises(ManifestError, match="has no rows"):
        read(path, ("variant_id",))


def test_every_column_of_a_wrong_type_is_told_once(case: Case) -> None:
    """Twenty thousand rows with a seed of text are one mistake."""
    path = case.rows(
        pa.table({
            "id": ["a"], "prompt": [1], "image": [True], "negative_prompt": [1.5], "seed": ["1"], "aspect": [16],
            "seconds": ["2"], "priority": [True], "anything": [None],
        })
    )  # fmt: skip
    with pytest.raises(ManifestError) as caught:
        Table(str(path))
    for words in (
        "there is no column variant_id",
        "the column prompt is int64; it must be text",
        "the column image is bool; it must be text",
        "the column negative_prompt is double; it must be text",
        "the column seed is string; it must be whole numbers",
        "the column aspect is int64; it must be text or a list of texts",
        "the column seconds is string; it must be numbers",
        "the column priority is bool; it must be whole numbers",
    ):
        assert words in str(caught.value)
    assert "anything" not in str(caught.value).split("there is no column")[0]


def test_types_that_other_programs_write_are_taken(case: Case) -> None:
    """pandas writes whole numbers with gaps as floats, Spark writes dictionaries, DuckDB large strings."""
    path = case.rows(
        pa.table({
            "variant_id": pa.array([1, 2], pa.uint32()),
            "prompt": pa.array(["x", "y"]).dictionary_encode(),
            "image": pa.array(["a", None], pa.large_string()),
            "seed": pa.array([1.0, None]),
            "aspect": pa.array([["9x16"], None], pa.large_list(pa.string())),
            "seconds": pa.array([2, None], pa.int8()),
            "priority": pa.nulls(2),
        })
    )  # fmt: skip
    assert read(path, ("variant_id", "prompt", "seed", "aspect"))[0] == (
        1, {"variant_id": 1, "prompt": "x", "seed": 1.0, "aspect": ["9x16"]},
    )  # fmt: skip


def test_decimals_without_places_are_ids(case: Case) -> None:
    """Every whole number of Snowflake and Oracle is NUMBER(38, 0)."""
    path = case.rows(pa.table({"variant_id": pa.array([7], pa.decimal128(38, 0)), "prompt": ["x"]}))
    assert [n for n, _ in read(path, conditions=["variant_id = 7"])] == [1]
    case.rows(pa.table({"variant_id": pa.array([7], pa.decimal128(38, 2))}))
    with pytest.raises(ManifestError, match=r"the column variant_id is decimal128\(38, 2\)"):
        Table(str(path))


def test_bytes_are_text(case: Case) -> None:
    """Impala, Hive and older Spark write texts without saying so, yesterday's file and today's may differ in it."""
    kinds = (pa.binary(), pa.large_binary(), pa.binary(6), pa.string(), pa.string_view(), pa.binary_view())
    for i, kind in enumerate(kinds):
        words = pa.array([b"Sommer", None], pa.binary()).cast(kind)
        case.rows(pa.table({"variant_id": [f"{i}a", f"{i}b"], "prompt": words}), f"{i}.parquet")
        assert [row["prompt"] for _, row in read(case.folder / f"{i}.parquet")] == ["Sommer", None]
        assert [n for n, _ in read(case.folder / f"{i}.parquet", conditions=["prompt = 'Sommer'"])] == [1]
    assert len(read(case.folder / "*.parquet")) == 2 * len(kinds)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary_view()])
def test_a_long_text_is_cut_whatever_its_kind(case: Case, kind: pa.DataType) -> None:
    """A million rows may point to one text of a hundred megabytes."""
    path = case.rows(
        pa.table({"variant_id": ["a"], "prompt": pa.array([b"x" * 100_000], pa.binary()).cast(kind)})
    )
    ((_, row),) = read(path)
    assert len(row["prompt"]) == MAX_CELL_CHARS


def test_what_cannot_be_read_is_told_with_its_row(case: Case) -> None:
    """One customer whose name came as Latin-1 must not keep the others from their ads."""
    long = b"\xfc" * 100_000
    path = case.rows(
        pa.table({
            "variant_id": ["a", "b", "c", "d"], "prompt": [b"M\xfcller", b"M\xc3\xbcller", long, b"x" * 30_000],
            "day": pa.array([0, 100_000_000, 0, 0], pa.int32()).cast(pa.date32()),
        })
    )  # fmt: skip
    found = [
        (n, len(row["prompt"]), problems) for n, row, problems in Table(str(path)).rows(["prompt", "day"])
    ]
    assert found[0] == (1, 6, ["prompt: `M\ufffdller` is not UTF-8 text"])
    assert found[1][:2] == (2, 6)
    assert found[1][2][0].startswith("day: has a value that cannot be read: ")
    assert found[2][1] < 4 * 21_000
    assert found[2][2] == [f"prompt: `{40 * chr(0xFFFD)}` is not UTF-8 text"]
    assert found[3][1] > 20_000
    assert [n for n, _ in read(path, ("prompt",), conditions=["variant_id = 'b'"])] == [2]


def test_short_floats_are_the_numbers_that_were_written(case: Case) -> None:
    """A FLOAT column of 19.9 is no 19.899999618530273."""
    path = case.rows(
        pa.table({"variant_id": ["a", "b", "c"], "price": pa.array([19.9, None, 20], pa.float32())})
    )
    assert [row["price"] for _, row in read(path, ("price",))] == [19.9, None, 20.0]
    assert [n for n, _ in read(path, ("price",), conditions=["price = 19.9"])] == [1]


def test_times_do_not_depend_on_what_is_installed(case: Case) -> None:
    """Nanoseconds come as pandas' own type where pandas is there, and are an error where it is not."""
    times = pa.array([1_769_884_200_000_000_001, None], pa.timestamp("ns", "UTC"))
    path = case.rows(pa.table({"variant_id": ["a", "b"], "at": times}))
    ((_, first), _) = read(path, ("at",))
    assert type(first["at"]) is datetime
    assert str(first["at"]) == "2026-01-31 18:30:00+00:00"
    assert [n for n, _ in read(path, ("at",), conditions=["at >= '2026-01-31'"])] == [1]


def test_known_numbers_of_a_csv_are_numbers_where_they_read_so(tmp_path: Path) -> None:
    """pandas writes ``5.0``, a German Excel ``1,5``; a word is for its row to tell. Any other column is its text."""
    (tmp_path / "m.csv").write_text("variant_id;seed;LEN;priority\n1.0;5.0;1,5; 7 \n2;high;;1,500\n", "utf-8")
    columns = ("variant_id", "seed", "seconds", "priority")
    found = read(tmp_path / "m.csv", columns, rename={"seconds": "LEN"})
    values = [tuple(row[name] for name in columns) for _, row in found]
    assert values == [("1.0", 5, 1.5, 7), ("2", "high", None, "1,500")]
    assert type(found[0][1]["seed"]) is int
    assert [n for n, _ in read(tmp_path / "m.csv", columns, conditions=["seed = 'high'"])] == [2]
    with pytest.raises(ManifestError, match=r"the condition `seed > 4` cannot be tried: .*'high'"):
        read(tmp_path / "m.csv", conditions=["seed > 4"])


def test_a_known_number_may_be_a_folder(case: Case) -> None:
    """``seed=5/`` is text as every folder's value, and a seed all the same."""
    case.rows([{"variant_id": "a", "prompt": "x"}], "data/seed=5/a.parquet")
    assert read(case.folder / "data", ("seed",), conditions=["seed < 10"]) == [(1, {"seed": 5})]


def test_lists_and_structs_say_how_one_gets_into_them(case: Case) -> None:
    path = case.rows(
        pa.table({
            "variant_id": ["a"], "tags": [["x"]], "shop": [{"city": "Ulm"}], "offers": [[{"the price": 1}]],
            "words": pa.array([[("de", "Hallo")]], pa.map_(pa.string(), pa.string())), "none": pa.nulls(1),
        })
    )  # fmt: skip
    assert Table(str(path), {"laden": "shop"}).ways_inside() == {
        "tags": "tags[0]", "laden": "laden.city", "offers": "offers[0]['the price']", "words": "words[0][1]",
    }  # fmt: skip


def test_columns_that_cannot_be_compared_are_told(case: Case) -> None:
    path = case.rows(
        pa.table({
            "variant_id": ["a"], "h": pa.array([1], pa.time64("us")), "t": pa.array([1], pa.timestamp("us")),
        })
    )  # fmt: skip
    with pytest.raises(ManifestError, match="the condition `h < t` cannot be tried"):
        read(path, ("variant_id",), conditions=["h < t"])


def test_files_of_two_formats_are_refused(case: Case) -> None:
    """A CSV beside the Parquet files is a leftover of somebody's debugging."""
    case.rows(ROWS, "d/a.parquet")
    (case.folder / "d" / "b.csv").write_text("variant_id\na\n")
    with pytest.raises(ManifestError, match=r"several formats \(csv, parquet\)"):
        Table(str(case.folder / "d"))
