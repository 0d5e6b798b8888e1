"""What a run tells its replicas before the first clip."""

from __future__ import annotations

from dataclasses import replace

from wanflow.engines.prompts import MAX_PROMPTS
from wanflow.model import Branch, CascadeStep, Clip, Mode, Sampling
from wanflow.pool.ahead import largest_by_weights, prompts_by_weights

SAMPLING = Sampling(6, 1.0, 4.0, 3.0, "unipc", None)
CLIP = Clip(Mode.T2V, "w", "waves", "dull", None, 0, 832, 480, 81, 16.0, SAMPLING)
PLAIN = replace(CLIP, weights="other", sampling=replace(SAMPLING, guidance_low=None))


def test_prompts_are_told_only_where_all_can_be_kept() -> None:
    """A thousand of them would push each other out before their clips come."""
    clips = [*(replace(CLIP, prompt=str(i % (MAX_PROMPTS - 2))) for i in range(1000)), PLAIN]
    clips.append(replace(CLIP, prompt="0", branch=Branch("the trunk's", 2)))
    found = prompts_by_weights(clips)
    assert len(found["w"]) == MAX_PROMPTS
    assert {"dull", "the trunk's"} < set(found["w"])
    assert found["other"] == ("waves",), "without guidance there is no negative one"
    assert prompts_by_weights([*clips, replace(CLIP, prompt="one more")]).keys() == {"other"}


def test_memory_is_for_the_largest_clip_at_the_length_of_the_longest() -> None:
    """A refine draws its last steps at a larger size: what fits before it may not fit then."""
    refine = CascadeStep("refine", (("grid", 16), ("scale", 2.0), ("steps", 4), ("strength", 0.3)))
    clips = [
        CLIP,
        replace(CLIP, width=480, height=832, num_frames=121),
        replace(CLIP, cascade=(refine,)),
        PLAIN,
    ]
    assert largest_by_weights(clips) == {"w": (1664, 960, 121), "other": (832, 480, 81)}
