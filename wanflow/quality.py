"""Checks on a finished file, by decoding it: what is published plays, has the promised shape, and shows something.
And on a clip's frames, as they are made: what is wrong with those no assembly can mend.

Size, frame rate, length, pixel format, index in front, not black, and no scene standing still although its master
moves. Knows nothing of how the file was made but which parts of it layers cover. Limits: pictures are compared, not
judged; of sound it is known that there is some, for as long as there are pictures.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanflow.errors import AssembleError, RenderError
from wanflow.model import Cause, Output, Scalar

if TYPE_CHECKING:
    import numpy as np

    from wanflow.assemble.layout import Area

#: Luma (limited range: black is 16) up to which a pixel is black, and the share of pixels that must be above it.
_BLACK = 24
_LIT_SHARE = 0.001
#: Mean change of luma between two frames that counts as movement in a master, and the share of it a file must keep.
_MOVES = 1.0
_KEPT = 0.1
#: Share of the picture that must show nothing but the master, for a verdict whether it moves.
_LEAST_SEEN = 0.1
#: AAC comes in frames of 21 ms, and begins with some that players skip
_SOUND_OFF_S = 0.1
#: peak of sound that nobody hears
_SILENT_DB = -60.0
_THUMB = 64
#: BT.709
_LUMA = [0.2126, 0.7152, 0.0722]
#: the same blackness in full-range RGB, and the mean difference to the first frame below which nothing moved at all
_BLACK_RGB = (_BLACK - 16) * 255 / 219
_FROZEN = 0.01


def check_file(
    path: Path,
    output: Output,
    scenes_s: Sequence[float],
    masters: Sequence[Path] = (),
    covered: Sequence[Sequence[Area]] = (),
    *,
    has_sound: bool = False,
) -> dict[str, Scalar]:
    """Facts of the finished file ``path``: ``width height fps num_frames seconds size_bytes luma motion``, and
    ``peak_db`` where it ``has_sound``.

    ``scenes_s`` are the lengths of its scenes, seconds; with their ``masters`` each must move when its master does,
    where nothing is ``covered`` by its layers. Raises :class:`AssembleError` that names what is wrong.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise AssembleError(f"{path.name} has no picture; it is not published, run again")
            stream = container.streams.video[0]
            context = stream.codec_context
            size, fps = (context.width, context.height), float(stream.average_rate or 0)
            pix_fmt = str(context.pix_fmt)
            thumbs = list(_thumbs(container))
        heard = _heard(path)
    except (av.error.FFmpegError, OSError) as error:
        raise AssembleError(
            f"{path.name} cannot be decoded: {error}; it is not published, run again"
        ) from None
    seconds, motion = len(thumbs) / (fps or 1), _motion(thumbs)
    # each scene has a whole number of frames of its own
    ends = [0, *accumulate(map(output.frames, scenes_s))]
    expect_s = ends[-1] / output.fps
    wrong: list[str] = []
    if size != (output.width, output.height):
        wrong.append(f"it is {size[0]}x{size[1]}, not {output.width}x{output.height}")
    if abs(fps - output.fps) > 0.01 * output.fps:
        wrong.append(f"it has {fps:.3f} frames a second, not {output.fps:g}")
    if abs(seconds - expect_s) > max(1.5 / output.fps, 0.05):
        wrong.append(f"it lasts {seconds:.3f} s, not {expect_s:.3f} s")
    if pix_fmt != "yuv420p":
        wrong.append(f"its pixels are {pix_fmt}, not yuv420p, which phones need")
    if not index_in_front(path):
        wrong.append("its index is at the end, so players must load it all before they start")
    if max((float((thumb > _BLACK).mean()) for thumb in thumbs), default=0.0) < _LIT_SHARE:
        wrong.append("every frame is black")
    for number, master in enumerate(() if wrong else masters):
        shown = thumbs[ends[number] : ends[number + 1]]
        if _stands_still(shown, output, master, covered[number] if covered else ()):
            which = "it" if len(masters) == 1 else f"scene {number + 1}"
            wrong.append(f"{which} stands still although its clip moves")
    wrong += _wrong_sound(heard, seconds) if has_sound else ["it has sound"] if heard else []
    if wrong:
        raise AssembleError(f"{path.name} is not what was asked for: {'; '.join(wrong)}")
    return {
        "width": size[0],
        "height": size[1],
        "fps": fps,
        "num_frames": len(thumbs),
        "seconds": round(seconds, 3),
        "size_bytes": path.stat().st_size,
        "luma": round(max(float(thumb.mean()) for thumb in thumbs), 2),
        "motion": round(motion, 3),
        **({"peak_db": round(heard[1], 1)} if heard else {}),
    }


def _heard(path: Path) -> tuple[float, float] | None:
    """Seconds and peak (dB of full scale) of a file's sound; None where it has none."""
    import av
    import numpy as np

    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        num_samples, rate, peak = 0, 1, 1e-5
        for frame in container.decode(audio=0):
            num_samples, rate = num_samples + frame.samples, frame.sample_rate
            peak = max(peak, float(np.abs(frame.to_ndarray()).max(initial=0.0)))
    return num_samples / rate, 20 * math.log10(peak)


def _wrong_sound(heard: tuple[float, float] | None, seconds: float) -> list[str]:
    if heard is None:
        return ["it has no sound"]
    wrong = []
    if abs(heard[0] - seconds) > _SOUND_OFF_S:
        wrong.append(f"its sound lasts {heard[0]:.3f} s, its pictures {seconds:.3f} s")
    if heard[1] < _SILENT_DB:
        wrong.append("its sound is silent")
    return wrong


def check_frames(chunks: Iterator[np.ndarray[Any, Any]]) -> Iterator[np.ndarray[Any, Any]]:
    """``chunks`` of uint8 frames (n, height, width, 3), passed on as they come.

    Raises RenderError (bad output) at their end when every frame is black, or every one is like the first.
    """
    import numpy as np

    first: np.ndarray[Any, Any] | None = None
    num, motion, lit = 0, 0.0, 0.0
    for chunk in chunks:
        for frame in chunk:
            steps = [max(1, side // _THUMB) for side in frame.shape[:2]]
            thumb = frame[:: steps[0], :: steps[1]].astype(np.float32) @ _LUMA
            first = thumb if first is None else first
            if thumb.shape == first.shape:  # else whoever encodes them says so
                motion = max(motion, float(abs(thumb - first).mean()))
            lit = max(lit, float((thumb > _BLACK_RGB).mean()))
            num += 1
        yield chunk
    if num and lit < _LIT_SHARE:
        raise RenderError("every frame is black", Cause.BAD_OUTPUT)
    if num > 1 and motion < _FROZEN:
        raise RenderError("the clip is frozen: every frame is like the first", Cause.BAD_OUTPUT)


def index_in_front(path: Path) -> bool:
    """Whether an MP4's ``moov`` box (the index) comes before its ``mdat`` box (the pictures)."""
    with path.open("rb") as file:
        while header := file.read(8):
            if len(header) < 8:
                return False
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            if kind in (b"moov", b"mdat"):
                return kind == b"moov"
            if length == 1:
                length = int.from_bytes(file.read(8), "big") - 8
            if length < 8:
                return False
            file.seek(length - 8, 1)
    return False


def _thumbs(container: Any) -> Iterator[np.ndarray]:
    """Every decoded frame's luma, thinned to about 64 pixels a side: all are decoded, little is kept."""
    import numpy as np

    for frame in container.decode(video=0):
        plane = frame.planes[0] if not frame.format.name.startswith(("rgb", "gbr")) else None
        if plane is None:
            luma = frame.to_ndarray(format="gray")
        else:
            deep = frame.format.components[0].bits > 8  # lines are padded: their length does not tell
            luma = np.frombuffer(plane, np.uint16 if deep else np.uint8).reshape(plane.height, -1)[
                :, : plane.width
            ]
            luma = luma >> (frame.format.components[0].bits - 8) if deep else luma
        yield luma[:: _step(luma.shape[0]), :: _step(luma.shape[1])].astype(np.int16)


def _step(side: int) -> int:
    """Pixels between two of a thumb's."""
    return max(1, side // _THUMB)


def _stands_still(
    thumbs: Sequence[np.ndarray], output: Output, master: Path, covered: Sequence[Area]
) -> bool:
    """Whether a scene does not move where its master does, as far as that is seen: not cut off, and under no layer.

    ``thumbs`` are those of the scene in a file of the output's size. Little that is seen is no reason for a verdict.
    """
    import numpy as np

    change, width, height = _change_of_master(master)
    scale = (max if output.fit == "cover" else min)(output.width / width, output.height / height)
    step_y, step_x = _step(output.height), _step(output.width)
    y, x = np.mgrid[: output.height : step_y, : output.width : step_x]
    # the same places in the master, whose middle is the file's
    from_y, from_x = (y - output.height / 2) / scale + height / 2, (x - output.width / 2) / scale + width / 2
    seen = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
    for area in covered:  # and what is next to it: thumbs are coarse, and edges blur
        rows = (y > area.top - 2 * step_y) & (y < area.bottom + 2 * step_y)
        seen &= ~(rows & (x > area.left - 2 * step_x) & (x < area.right + 2 * step_x))
    if seen.mean() < _LEAST_SEEN:
        return False
    moving = change[
        from_y[seen].astype(int) // _step(height), from_x[seen].astype(int) // _step(width)
    ].mean()
    return bool(moving > _MOVES and _motion([thumb[seen] for thumb in thumbs]) < _KEPT * moving)


def _change_of_master(master: Path) -> tuple[np.ndarray, int, int]:
    """Many variants share a master: a process decodes it once."""
    stat = master.stat()
    return _decoded_change(str(master), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _decoded_change(path: str, mtime_ns: int, size_bytes: int) -> tuple[np.ndarray, int, int]:
    """Change of luma from the first frame to the one that is farthest from it, thinned, and the frames' size."""
    import av
    import numpy as np

    try:
        with av.open(path) as container:
            thumbs = list(_thumbs(container))
            context = container.streams.video[0].codec_context
    except (av.error.FFmpegError, OSError) as error:
        raise AssembleError(f"the master {Path(path).name} cannot be decoded: {error}; run again") from None
    farthest = max((abs(thumb - thumbs[0]) for thumb in thumbs), key=np.mean)
    return farthest.astype(np.uint8), context.width, context.height


def _motion(thumbs: Sequence[np.ndarray]) -> float:
    """The largest mean change of luma from the first frame: a clip that goes and comes back moves, too."""
    return max((float(abs(thumb - thumbs[0]).mean()) for thumb in thumbs[1:]), default=0.0)
