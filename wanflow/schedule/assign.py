"""Who renders what now: clips to idle replicas, staging for busy ones, second copies of stragglers at the tail.

Decides only on what is waiting and who is idle; failures, starts and ends of replicas are others' business. It tries no
more than a few replicas and clips an event, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from wanflow.model import Cause
from wanflow.schedule.actions import Action, Reason
from wanflow.schedule.backlog import Answer
from wanflow.schedule.board import Board
from wanflow.schedule.policy import num_own
from wanflow.schedule.state import TOO_LATE, ClipState, ClipStatus, ReplicaState, VariantStatus

#: a replica is slow when it takes this many times what its peers take
SLOW = 1.25
#: replicas that are looked at, an event: idle, soon free, with a clip staged or a straggler
MAX_REPLICAS = 8
#: share of the time left that a group may fill before the longest clip of all must have started
STAY = 0.8


def assign_clips(board: Board) -> list[Action]:
    """Orders for every idle replica that has something to do, then for those whose clip ends without their forwards,
    then for busy ones that can be staged for."""
    actions: list[Action] = []
    for weights in [weights for weights, num in board.num_replicas.items() if num]:
        actions += _render(board, weights)
        actions += _render_beside(board, weights)
        actions += _copy_stragglers(board, weights)
        # Staging comes last, so that no clip waits behind a busy replica while another one is idle.
        actions += _stage(board, weights)
    return actions


def _render(board: Board, weights: str) -> list[Action]:
    actions: list[Action] = []
    declined: list[ReplicaState] = []
    while board.backlog.num(weights) or board.staged.get(weights):
        replica = board.idle.pop(weights) if len(declined) < MAX_REPLICAS else None
        if replica is None:
            break
        was_staged = replica.staged
        clip = _choose(board, replica)
        if clip is None:
            declined.append(replica)
        else:
            actions.append(board.render(clip, replica, _reason(clip, clip.key == was_staged)))
    for replica in declined:
        board.idle.push(replica)
    return actions


def _render_beside(board: Board, weights: str) -> list[Action]:
    """The next clip where one ends that needs the replica's forwards no more.

    A suspect has its replica for itself: it is staged, and the replica begins nothing before it has fallen idle.
    """
    actions: list[Action] = []
    for name in list(islice(board.free_soon.get(weights, ()), MAX_REPLICAS)):
        if not (board.backlog.num(weights) or board.staged.get(weights)):
            break
        replica = board.replicas[name]
        board.look_if_free(replica)
        if name not in board.free_soon[weights] or replica.rest_until_s > board.now_s:
            continue
        was_staged = replica.staged
        if (clip := _choose(board, replica)) is None:
            continue
        if board.is_suspect(clip):
            actions.append(board.stage(clip, replica))
        else:
            actions.append(board.render(clip, replica, _reason(clip, clip.key == was_staged)))
    return actions


def _choose(board: Board, replica: ReplicaState) -> ClipState | None:
    if board.is_held(replica):
        if (staged := board.unstage(replica)) is not None:
            board.wait(staged)
        return None
    suits = _suits(board, replica)
    if (staged := board.unstage(replica, begins=True)) is not None:
        answer = suits(staged)
        if answer is Answer.TAKE:
            return staged
        if answer is Answer.DROP:
            _drop(board, staged)
        else:
            board.wait(staged)
    if (clip := _take(board, replica)) is not None:
        return clip
    # The clip that was staged last is at the replica that is busy longest.
    for key in list(islice(reversed(board.staged.get(replica.weights, {})), MAX_REPLICAS)):
        clip = board.clips[key]
        if replica.copy is not None and board.is_suspect(clip):
            continue  # one replica is kept for it, no other one
        if suits(clip) is not Answer.TAKE:
            continue
        board.unstage(board.replicas[clip.replica or ""])
        return clip
    return None


def _take(board: Board, replica: ReplicaState) -> ClipState | None:
    """The next waiting clip that suits ``replica``; clips that suit nobody any more are left on the way."""
    if board.is_held(replica):
        return None
    suits = _suits(board, replica)
    late: list[ClipState] = []

    def accept(clip: ClipState) -> Answer:
        answer = suits(clip)
        if answer is Answer.DROP:
            late.append(clip)
        return answer

    def stays(own: ClipState, longest: ClipState) -> bool:
        return _stays(board, own, longest)

    while True:
        taken = board.backlog.take(replica.weights, accept, replica.group, stays)
        while late:
            _drop(board, late.pop())
        if taken is None or taken.is_open:  # it may have been wanted only together with one that is too late
            return taken


def _suits(board: Board, replica: ReplicaState) -> Callable[[ClipState], Answer]:
    def suits(clip: ClipState) -> Answer:
        fits = clip.may_fit(replica.rung)
        if not fits and board.num_fitting(clip):
            return Answer.SKIP  # for a larger one
        if clip.failed_on == replica.replica and board.num_sound(clip) > fits:
            return Answer.SKIP  # a second opinion
        seconds = board.estimates.seconds(clip, replica.replica)
        if seconds is None:
            return Answer.TAKE
        deadline_s = board.policy.deadline_s
        if deadline_s is not None and board.now_s + seconds > deadline_s:
            usual_s = board.estimates.seconds(clip) or 0.0
            return Answer.DROP if board.now_s + usual_s > deadline_s else Answer.SKIP
        return Answer.SKIP if _faster_elsewhere(board, replica, clip, seconds) else Answer.TAKE

    return suits


def _faster_elsewhere(board: Board, replica: ReplicaState, clip: ClipState, seconds: float) -> bool:
    """At the tail, whether a slow replica should leave ``clip`` to the next faster one, which would end it sooner."""
    slowness = board.estimates.slowness(replica.replica)
    num = board.backlog.num(replica.weights)
    if slowness < SLOW or num > len(board.busy):
        return False
    first = board.watch.first(replica.weights, board.now_s)
    if first is None or first.replica == replica.replica:
        return False
    usual_s = seconds / slowness * board.estimates.slowness(first.replica)
    # One replica alone for all that waits: cautious, as others will help.
    return (first.expected_end_s or 0.0) + usual_s * max(num, 1) < board.now_s + seconds


def _stays(board: Board, own: ClipState, longest: ClipState) -> bool:
    """Whether a replica stays in its group although a longer clip waits elsewhere.

    Only while there is so much work that the longer one, started next, does not become the end of the run.
    """
    weights = own.weights
    ratio = board.estimates.ratio(own.kind, weights) or 1.0
    switch = board.estimates.switch_s() / ratio
    if switch < 0.01 * own.left_nominal:
        return False
    horizon = board.backlog.work(weights) / max(board.num_replicas[weights], 1)
    return own.left_nominal + longest.left_nominal + switch <= STAY * horizon


def _stage(board: Board, weights: str) -> list[Action]:
    """While there are at least as many clips as replicas: at the tail each goes to whoever is free first."""
    actions: list[Action] = []
    unstaged, staged = board.unstaged.get(weights, {}), board.staged.get(weights, {})
    while unstaged and board.backlog.num(weights):
        if board.backlog.num(weights) + len(staged) < board.num_replicas[weights]:
            break
        replica = board.replicas[next(iter(unstaged))]
        if (clip := _take(board, replica)) is None:
            break
        actions.append(board.stage(clip, replica))
        staged = board.staged[weights]
    return actions


def _copy_stragglers(board: Board, weights: str) -> list[Action]:
    """A second copy where an idle replica should end it sooner than the one that renders it."""
    actions: list[Action] = []
    while (
        not board.backlog.num(weights)
        and board.idle.num[weights]
        and board.idle.num[weights] < board.num_replicas[weights]
    ):
        replica = board.idle.pop(weights)
        if replica is None:
            break
        clip = _straggler(board, replica)
        if clip is None:
            board.idle.push(replica)
            break
        clip.num_second_copies += 1
        actions.append(board.render(clip, replica, Reason.STRAGGLER))
    return actions


def _straggler(board: Board, replica: ReplicaState) -> ClipState | None:
    policy = board.policy
    if board.is_held(replica):
        return None
    for copy in board.watch.latest(replica.weights, board.now_s, MAX_REPLICAS):
        clip = board.clips[copy.key]
        if (
            copy.ending
            or copy.is_denoised
            or copy.attempt not in clip.copies
            or len(clip.copies) > 1
            or clip.lost
        ):
            continue
        # A clip that has failed before may take this replica down as well, or fail for good in two places at once.
        if num_own(clip.failures) or clip.suspected or clip.num_second_copies >= policy.max_second_copies:
            continue
        seconds = board.estimates.seconds(clip, replica.replica)
        if seconds is None or copy.expected_end_s is None:
            continue
        if replica.group != clip.group:
            seconds += board.estimates.switch_s()
        if board.now_s + seconds * (1 + policy.copy_margin) + policy.copy_margin_s < copy.expected_end_s:
            return clip
    return None


def _reason(clip: ClipState, was_staged: bool) -> Reason:
    if clip.failures and clip.failures[-1] is Cause.OUT_OF_MEMORY:
        return Reason.LESS_MEMORY
    if clip.kept is not None:
        return Reason.RESUMED
    if clip.num_attempts:
        return Reason.RETRY
    return Reason.STAGED if was_staged else Reason.NEXT_IN_ORDER


def _drop(board: Board, clip: ClipState) -> None:
    """No replica can end it before the deadline: it is not started, and its variants are left for the next run."""
    if clip.is_open:
        board.finish_clip(clip, ClipStatus.LEFT)
    for variant in board.waiters(clip.key):
        if variant.status is VariantStatus.WAITING:
            board.close_variant(variant, VariantStatus.LEFT, TOO_LATE)
