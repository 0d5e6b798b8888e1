"""What a replica's start gets of the disk and of the store, beside what they give to nobody but a plain reader.

::

    python -m benchmarks.loading [--mb 1024] [--rounds 3] [--store s3://BUCKET/PREFIX] [--folder DIR] [--json]

An expert in Wan's layout with random weights, in four shards, is made in ``--folder`` and loaded from a cold page cache
(as far as the system empties it), to torch's device without memory: no GPU's bus is in the figures. Then it is put into
``--store`` and fetched again; without ``--store`` a small server on this machine stands for one.
The contenders take turns, the figures are medians of the rounds:

``disk``    MB/s of reads of 8 MiB past the page cache, one after the other
``mapped``  MB/s of diffusers' ``from_pretrained`` alone
``load``    the same under ``reading_ahead``, as an engine loads
``get``     MB/s of fsspec's own ``get`` of the folder
``fetch``   MB/s of ``fetch_files``, as a node fetches; its bytes are on the disk at the end, not only in memory
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

BLOCK_BYTES = 8 * 2**20
#: what of S3 a reader needs: a listing, and ranges that the kernel sends without a copy in Python
_SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
folder, prefix = Path(sys.argv[1]), "/loading/expert/"

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        if not path.startswith(prefix):
            items = "".join(
                f"<Contents><Key>expert/{each.name}</Key><Size>{each.stat().st_size}</Size><ETag>e</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>" for each in folder.iterdir()
            )
            body = f"<ListBucketResult><KeyCount>1</KeyCount>{items}</ListBucketResult>".encode()
            self.answer(200, len(body))
            self.wfile.write(body)
            return
        with (folder / path.removeprefix(prefix)).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            start, end = int(start), min(int(end or size - 1) + 1, size)
            self.answer(206 if "Range" in self.headers else 200, end - start)
            while start < end and self.command == "GET":
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)

    do_HEAD = do_GET

    def answer(self, status, length):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", "e")
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *words): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=1024, help="weights, in MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", help="URL of a folder to write to; what is put there is deleted")
    parser.add_argument("--folder", help="on the disk to measure (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="one line of figures, nothing else")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = make_expert(Path(name, "expert"), asked.mb)
        figures = measure_disk(folder, asked.rounds)
        with serve(folder, asked.store) as url:
            figures |= measure_store(folder, url, Path(name, "fetched"), asked.rounds)
    if asked.json:
        print(json.dumps(figures))
        return
    for part, whole in (("mapped", "disk"), ("load", "disk"), ("fetch", "get")):
        of = figures[part] / figures[whole]
        print(f"{part:<7}{figures[part]:>7.0f} MB/s, {100 * of:.0f} % of {whole}'s {figures[whole]:.0f} MB/s")


def make_expert(folder: Path, num_mb: int) -> Path:
    import torch
    from diffusers import WanTransformer3DModel

    heads = 8
    block_bytes = 4 * 12 * (128 * heads) ** 2
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        expert = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=128, ffn_dim=4 * 128 * heads // 2, text_dim=64,
            num_layers=max(1, num_mb * 10**6 // block_bytes),
        )  # fmt: skip
    expert.save_pretrained(folder, max_shard_size=num_mb * 10**6 // 4)
    return folder


def measure_disk(folder: Path, num_rounds: int) -> dict[str, float]:
    """MB/s by contender."""
    import torch
    from diffusers import WanTransformer3DModel
    from diffusers.utils import logging

    from wanflow.engines.read_ahead import reading_ahead

    logging.disable_progress_bar()
    files = sorted(folder.glob("*.safetensors"))

    def read() -> None:
        block = mmap.mmap(-1, BLOCK_BYTES)
        for path in files:
            file = _open_past_cache(path)
            while os.readv(file, [block]) == BLOCK_BYTES:
                pass
            os.close(file)

    def load() -> None:
        WanTransformer3DModel.from_pretrained(folder, dtype=torch.bfloat16, device_map={"": "meta"})

    def load_ahead() -> None:
        with reading_ahead(files):
            load()

    load()  # what is imported and made once
    return _turns({"disk": read, "mapped": load, "load": load_ahead}, files, num_rounds, files)


def _open_past_cache(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:  # not on this file system
        return os.open(path, os.O_RDONLY)


def measure_store(folder: Path, url: str, local: Path, num_rounds: int) -> dict[str, float]:
    """MB/s by contender."""
    from wanflow.storage import fetch_files, filesystem, join

    files = sorted(folder.glob("*.safetensors"))

    def get() -> None:
        fs, root = filesystem(url)
        fs.get(root, str(local), recursive=True)

    def fetch() -> None:
        local.mkdir()
        fetch_files((join(url, path.name), local / path.name, path.stat().st_size) for path in files)

    def clear() -> None:
        shutil.rmtree(local, ignore_errors=True)

    return _turns({"get": get, "fetch": fetch}, files, num_rounds, (), clear)


def _turns(
    contenders: dict[str, Callable[[], None]],
    files: list[Path],
    num_rounds: int,
    cold: list[Path] | tuple[()],
    before: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    num_bytes = sum(path.stat().st_size for path in files)
    paces: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(num_rounds):
        for name, run in contenders.items():
            before()
            for path in cold:
                file = os.open(path, os.O_RDONLY)
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(file)
            began_s = time.perf_counter()
            run()
            paces[name].append(num_bytes / 1e6 / (time.perf_counter() - began_s))
    return {name: round(median(found), 1) for name, found in paces.items()}


@contextlib.contextmanager
def serve(folder: Path, url: str | None) -> Iterator[str]:
    """URL of a folder of an object store that has the files of ``folder``."""
    if url is not None:
        from wanflow.storage import Store

        store = Store(f"{url.rstrip('/')}/loading-{secrets.token_hex(4)}")
        for path in folder.iterdir():
            store.write(path.name, path)
        try:
            yield store.url
        finally:
            for path in folder.iterdir():
                store.delete(path.name)
        return
    command = [sys.executable, "-c", _SERVER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield "s3://loading/expert"
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
