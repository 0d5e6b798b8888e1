"""``s3://`` and everything that speaks S3, through s3fs and its client.

Single puts and multipart uploads carry ``If-None-Match: *`` or ``If-Match``. Whether the server heeds them is tried
once a bucket and process; where it does not, and for multipart uploads (some servers heed conditions at single puts
only), a write looks first and then writes, which narrows a race. Listing caches are off. Retries are the caller's
(``retry.py``): the client's own are turned off, so that one rule counts. Parts and single puts carry Content-MD5.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from wanflow.errors import Conflict, StoreError
from wanflow.storage.retry import TRIES, call, diagnose
from wanflow.storage.s3_client import client, surroundings
from wanflow.storage.stat import ABSENT, Stat, Unfinished

#: a larger file goes up in parts of this size, some at a time
PART_BYTES = 16 * 2**20
#: S3 takes at most this many parts
MAX_PARTS = 10_000
PARTS_AT_ONCE = 4
#: one request, or one piece of an answer, whatever the server trickles; its silence is bounded in ``s3_client``
TRY_TIMEOUT_S = 180
_CHUNK_BYTES = 2**20

_conditional: dict[tuple[object, ...], bool] = {}


class S3Files:
    tries = TRIES

    def __init__(self, url: str) -> None:
        rest = url.split("://", 1)[1].strip("/")
        self._bucket, _, prefix = rest.partition("/")
        if not self._bucket or "@" in self._bucket:
            raise StoreError(
                "an S3 URL is s3://BUCKET/PREFIX, without credentials; those come from the environment"
            )
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{rest}"

    def get(self, path: str, max_bytes: int | None) -> tuple[bytes, Stat]:
        async def load() -> tuple[bytes, Stat]:
            answer = await self._request("get_object", path)
            size = int(answer["ContentLength"])
            async with answer["Body"] as body:
                if max_bytes is not None and size > max_bytes:
                    raise StoreError(f"{self.url}/{path} has {size} bytes, more than the {max_bytes} allowed")
                data = cast(bytes, await asyncio.wait_for(body.read(), TRY_TIMEOUT_S))
            if len(data) != size:
                raise ConnectionResetError(f"got {len(data)} of {size} bytes")
            return data, Stat(path, size, _bare(answer["ETag"]))

        return cast(tuple[bytes, Stat], self._wait(load))

    def put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat:
        asked = {"ContentType": content_type, "CacheControl": cache_control}
        headers = {name: value for name, value in asked.items() if value}
        match: dict[str, str] = {}
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if condition is not None:
            heeded = self.conditional_writes()
            if heeded:
                match = {"IfNoneMatch": "*"} if condition == ABSENT else {"IfMatch": f'"{condition}"'}
            if not heeded or size > PART_BYTES:  # some servers heed them at single puts only
                held = self.stat(path)
                if condition != (held.etag if held else ABSENT):
                    raise Conflict(f"{self.url}/{path} was written by somebody else first")
        try:
            if size <= PART_BYTES:
                content = data.read_bytes() if isinstance(data, Path) else data
                etag = self._put_whole(path, content, {**headers, **match})
            else:
                etag = self._put_parts(path, data, size, headers, match)
        except FileNotFoundError as exc:  # If-Match on an object that is gone
            if "IfMatch" in match and diagnose(exc).code != "NoSuchBucket":
                raise Conflict(f"{self.url}/{path} was deleted by somebody else") from exc
            raise
        return Stat(path, size, etag)

    def stat(self, path: str) -> Stat | None:
        try:
            answer = self._wait(lambda: self._request("head_object", path))
        except FileNotFoundError:
            return None
        return Stat(path, int(answer["ContentLength"]), _bare(answer["ETag"]))

    def list(self, prefix: str, skip: str) -> Iterator[Stat]:
        more: dict[str, str] = {}
        while True:
            page = self._page(prefix, more)
            jump = False
            for item in page.get("Contents", ()):
                path = item["Key"][len(self._prefix) :]
                if skip and path.startswith(skip):
                    jump = True  # keys are sorted: go on behind the last one that could begin so
                    break
                if path and not path.endswith("/"):
                    yield Stat(path, int(item["Size"]), _bare(item["ETag"]))
            if jump:
                more = {"StartAfter": f"{self._prefix}{skip}\U0010ffff"}
                skip = ""
            elif page.get("IsTruncated"):
                more = {"ContinuationToken": page["NextContinuationToken"]}
            else:
                return

    def folders(self, prefix: str) -> builtins.list[str]:
        names: builtins.list[str] = []
        more: dict[str, str] = {"Delimiter": "/"}
        while True:
            page = self._page(prefix, more)
            skip = len(self._prefix) + len(prefix)
            names += [item["Prefix"][skip:].rstrip("/") for item in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return names
            more = {"Delimiter": "/", "ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, more: dict[str, str]) -> Any:
        where = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        return call(
            lambda: self._wait(lambda: self._call("list_objects_v2", **where, **more)),
            f"list {self.url}/{prefix}",
        )

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._wait(lambda: self._request("delete_object", path))

    def fetch(self, path: str, local: Path) -> None:
        async def load() -> None:
            answer = await self._request("get_object", path)
            async with answer["Body"] as body:
                got = 0
                with open(local, "wb") as file:
                    while chunk := await asyncio.wait_for(body.read(_CHUNK_BYTES), TRY_TIMEOUT_S):
                        got += file.write(chunk)
            if got != int(answer["ContentLength"]):
                raise ConnectionResetError(f"got {got} of {answer['ContentLength']} bytes")

        self._wait(load)

    def unfinished(self) -> builtins.list[Unfinished]:
        """Multipart uploads that were neither completed nor aborted; they are billed until somebody aborts them."""
        found: builtins.list[Unfinished] = []
        more: dict[str, str] = {}
        while True:
            where = {"Bucket": self._bucket, "Prefix": self._prefix}
            page = self._wait(lambda: self._call("list_multipart_uploads", **where, **more))  # noqa: B023
            for item in page.get("Uploads", ()):
                path = item["Key"][len(self._prefix) :]
                found.append(Unfinished(path, 0, item["Initiated"].timestamp(), item["UploadId"]))
            if not page.get("IsTruncated"):
                return found
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def discard(self, write: Unfinished) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._wait(lambda: self._request("abort_multipart_upload", write.path, UploadId=write.upload_id))

    def conditional_writes(self) -> bool:
        """Whether the server refuses a second create and a replace with a stale ETag. Tried with one small object."""
        where = (*surroundings(), self._bucket)
        known = _conditional.get(where)
        if known is None:
            known = _conditional[where] = self._try_conditions()
        return known

    def _try_conditions(self) -> bool:
        path = f".wanflow/.probe-{secrets.token_hex(8)}"
        etag = self._put_whole(path, b"probe", {})
        try:
            for match in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * len(etag)}"'}):
                try:
                    self._put_whole(path, b"probe again", match)
                    return False
                except OSError as exc:
                    status = diagnose(exc).status
                    if status in {400, 501}:  # servers that refuse the header instead
                        return False
                    if status != 412 and not isinstance(exc, FileExistsError):
                        raise
            return True
        finally:
            self.delete(path)

    def _put_whole(self, path: str, data: bytes, more: dict[str, str]) -> str:
        answer = self._wait(
            lambda: self._request("put_object", path, Body=data, ContentMD5=_md5(data), **more)
        )
        return _bare(answer["ETag"])

    def _put_parts(
        self, path: str, data: bytes | Path, size: int, headers: dict[str, str], match: dict[str, str]
    ) -> str:
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))

        def part(number: int) -> bytes:
            if isinstance(data, bytes):
                return data[number * part_bytes : (number + 1) * part_bytes]
            with open(data, "rb") as file:
                file.seek(number * part_bytes)
                return file.read(part_bytes)

        started = self._wait(lambda: self._request("create_multipart_upload", path, **headers))
        upload_id = started["UploadId"]

        def send(number: int) -> dict[str, object]:
            body = part(number)  # read in its turn: no more than PARTS_AT_ONCE parts are in memory
            more = {"PartNumber": number + 1, "UploadId": upload_id, "Body": body, "ContentMD5": _md5(body)}
            sent = call(
                lambda: self._wait(lambda: self._request("upload_part", path, **more)),
                f"write part {number + 1} of {self.url}/{path}",
            )
            return {"PartNumber": number + 1, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="wanflow-parts") as threads:
                parts = list(threads.map(send, range(-(-size // part_bytes))))
            done = self._wait(
                lambda: self._request(
                    "complete_multipart_upload",
                    path,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                    **match,
                )
            )
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self._wait(lambda: self._request("abort_multipart_upload", path, UploadId=upload_id))
            raise
        return _bare(done["ETag"])

    async def _request(self, method: str, path: str, **more: object) -> Any:
        return await self._call(method, Bucket=self._bucket, Key=self._prefix + path, **more)

    async def _call(self, method: str, **more: object) -> Any:
        return await asyncio.wait_for(client()._call_s3(method, **more), TRY_TIMEOUT_S)

    def _wait(self, start: Any) -> Any:
        from fsspec.asyn import sync

        return sync(client().loop, start)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _bare(etag: str) -> str:
    return etag.strip('"')
