"""How loud a sound file is, by ITU-R BS.1770 as ffmpeg measures it, and what brings it to a video's loudness."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from wanflow.assemble import ffmpeg, graph, sound

#: more would lift nothing but noise
_MOST_GAIN_DB = 30.0
#: what ffmpeg says of what is too short or too soft to be measured
_NOTHING = -69.0
_TIMEOUT_S = 300.0


def gain_db(path: Path, demuxer: str, target: float, skip_s: float, seconds: float) -> float:
    """dB that bring ``seconds`` of ``path`` behind its first ``skip_s`` to ``target`` LUFS; 0.0 where nothing can be
    measured. AssembleError when it cannot be read."""
    loudness = _measured(str(path), demuxer, round(skip_s, 3), round(seconds, 3))
    return min(_MOST_GAIN_DB, target - loudness) if loudness > _NOTHING else 0.0


@lru_cache(maxsize=4096)  # a process assembles many videos with the same music
def _measured(path: str, demuxer: str, skip_s: float, seconds: float) -> float:
    stream = sound.read(Path(path), demuxer)
    stream = stream.filter("atrim", start=f"{skip_s:.3f}", duration=f"{seconds:.3f}")
    stream = stream.filter("ebur128", framelog="verbose")
    arguments = stream.output("-", f="null").get_args()
    said = ffmpeg.run([*graph.QUIET, *arguments], timeout_s=_TIMEOUT_S)
    found = re.findall(r"\bI: +(-?[0-9.]+|-inf|nan) LUFS", said)
    return float(found[-1]) if found and found[-1] not in ("-inf", "nan") else _NOTHING
