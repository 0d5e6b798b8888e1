"""Which prompts a clip is rendered with. Knows nothing of torch."""

from __future__ import annotations

from wanflow.model import Clip

#: an engine keeps so many at hand
MAX_PROMPTS = 256


def prompts_of(clip: Clip) -> tuple[str, ...]:
    """The clip's prompt and, where it has guidance, the negative one."""
    guided = max(clip.sampling.guidance, clip.sampling.guidance_low or 0.0) > 1.0
    return (clip.prompt, clip.negative_prompt) if guided else (clip.prompt,)
