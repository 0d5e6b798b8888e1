"""How loud a sound file is, by ITU-R BS.1770 as ffmpeg measures it, and what brings it to a video's loudness."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from wanflow.assemble import ffmpeg, graph, sound

#: more would lift nothing but noise
_MOST_GAIN_DB = 30.0
#: what the limiter takes is given back up to here; beyond, it would be pressed flat
_MOST_MAKE_UP_DB = 3.0
#: what ffmpeg says of what is too short or too soft to be measured
_NOTHING = -69.0
_TIMEOUT_S = 300.0


def gain_db(path: Path, demuxer: str, target: float, skip_s: float, seconds: float) -> float:
    """dB that bring ``seconds`` of ``path`` behind its first ``skip_s`` to ``target`` LUFS, the mix's limiter behind
    them; 0.0 where nothing can be measured. AssembleError when it cannot be read."""
    part = str(path), demuxer, round(skip_s, 3), round(seconds, 3)
    loudness, peak_db = _measured(*part)
    if loudness <= _NOTHING:
        return 0.0
    gain = min(_MOST_GAIN_DB, target - loudness)
    if peak_db + gain > sound.CEILING_DB:
        limited, _ = _measured(*part, round(gain, 2))
        gain += min(_MOST_MAKE_UP_DB, max(0.0, loudness + gain - limited))
    return gain


@lru_cache(maxsize=4096)  # a process assembles many videos with the same music
def _measured(
    path: str, demuxer: str, skip_s: float, seconds: float, limited_gain_db: float | None = None
) -> tuple[float, float]:
    """Integrated loudness (LUFS) and true peak (dB of full scale), with a gain also behind it and the limiter."""
    stream = sound.read(Path(path), demuxer)
    stream = stream.filter("atrim", start=f"{skip_s:.3f}", duration=f"{seconds:.3f}")
    if limited_gain_db is not None:
        stream = sound.limited(stream.filter("volume", f"{limited_gain_db:.2f}dB"))
    stream = stream.filter("ebur128", framelog="verbose", peak="true")
    arguments = stream.output("-", f="null").get_args()
    said = ffmpeg.run([*graph.QUIET, *arguments], timeout_s=_TIMEOUT_S)
    found = (
        re.findall(rf"\b{name}: +(-?[0-9.]+) {unit}", said)
        for name, unit in (("I", "LUFS"), ("Peak", "dBFS"))
    )
    loudness, peak_db = (float(values[-1]) if values else _NOTHING for values in found)
    return loudness, peak_db
