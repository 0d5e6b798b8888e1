"""Makes ``docs/ads.jpg`` from what ``make demo`` has published: two clips a row, each as three brands' ads.

python docs/sheet.py
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[1]
GAP = 8
WIDTH = 1440


def main() -> None:
    files = pq.read_table(ROOT / "out/ad_variants/catalog/files.parquet").to_pylist()
    posters = [row for row in files if row["kind"] == "poster"]
    by_output: dict[str, dict[str, list[str]]] = {}
    for row in posters:
        by_output.setdefault(row["output"], {}).setdefault(row["campaign"], []).append(row["path"])
    rows = []
    for output in ("story", "square", "wide"):
        campaigns = sorted(by_output[output])[:2]
        paths = [path for campaign in campaigns for path in sorted(by_output[output][campaign])]
        images = [Image.open(ROOT / "out/ad_variants" / path) for path in paths]
        scale = (WIDTH - GAP * (len(images) + 1)) / sum(image.width for image in images)
        sizes = [(int(image.width * scale), int(image.height * scale)) for image in images]
        rows.append(
            [image.resize(size, Image.Resampling.LANCZOS) for image, size in zip(images, sizes, strict=True)]
        )
    sheet = Image.new("RGB", (WIDTH, GAP + sum(row[0].height + GAP for row in rows)), "white")
    y = GAP
    for row in rows:
        x = GAP
        for image in row:
            sheet.paste(image, (x, y))
            x += image.width + GAP
        y += row[0].height + GAP
    sheet.save(ROOT / "docs/ads.jpg", quality=86)
    print(f"docs/ads.jpg: {sheet.width}x{sheet.height}")


if __name__ == "__main__":
    main()
