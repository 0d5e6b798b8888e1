"""Prompts as the text encoder was trained to see them."""

from __future__ import annotations

import html
from functools import lru_cache


@lru_cache(maxsize=65_536)
def clean_prompt(text: str) -> str:
    """Broken encodings repaired, HTML entities resolved, white space collapsed.

    Equal to ``prompt_clean`` of diffusers' WanPipeline, so that a prompt gives the same embedding here and there.
    """
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(repaired.split())
