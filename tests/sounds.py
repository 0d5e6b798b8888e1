"""Sound files as users have them, made here: tones, and something with the rhythm and the peaks of speech."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 48_000
Samples = np.ndarray[Any, Any]


def tone(seconds: float, hertz: float = 440.0, peak: float = 0.1, rate: int = RATE) -> Samples:
    return peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def speech(seconds: float, peak: float = 0.5, rate: int = RATE, seed: int = 0) -> Samples:
    """Bursts of filtered noise, four a second, some far louder than others, with short pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = np.convolve(rng.normal(size=len(time)), np.ones(24) / 24, "same")
    loud = np.repeat(rng.uniform(0.15, 1.0, int(seconds * 4) + 1) ** 2, rate // 4)[: len(time)]
    voice = noise * loud * np.clip(np.sin(np.pi * ((time * 4) % 1)) * 1.5 - 0.3, 0, 1)
    return np.asarray(peak * voice / np.abs(voice).max())


def write_sound(path: Path, samples: Samples, rate: int = RATE, channels: int = 1) -> Path:
    """As WAV, or in the format of the suffix: mp3, m4a, flac, ogg and webm (Opus)."""
    data = np.repeat((np.clip(samples, -1, 1) * 32767).astype("<i2")[:, None], channels, axis=1)
    if path.suffix == ".wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(data.tobytes())
        return path
    codec = {".mp3": "mp3", ".m4a": "aac", ".flac": "flac", ".ogg": "libopus", ".webm": "libopus"}[
        path.suffix
    ]
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(data.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_sound(path: Path) -> Samples:
    """The first channel at its own rate, without what a player skips."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float64)


def level_db(samples: Samples, start_s: float, end_s: float, rate: int = RATE) -> float:
    """Of a part, root mean square in dB of full scale."""
    part = samples[round(start_s * rate) : round(end_s * rate)]
    return 10 * float(np.log10(max(np.mean(part**2), 1e-12)))
