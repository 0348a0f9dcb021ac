"""Failure signatures: what a policy that goes wrong shows in the numbers of its own log, each a pure function.

They read the windows of a run and answer with a plain sentence that has the number in it, or with None. What a run
shows at its start is its own measure wherever models differ from each other.
"""

from collections.abc import Callable

from multiattempt_trl.training.windows import History, Window

# --- thresholds ----------------------------------------------------------------------------------------------------
# Standard errors of a share near a half: 1.1 points over a window's 2,048 dialogues, 2.2 over the first 512.
# "Healthy" are the two runs of docs/metrics.md#alarms.

BEST_AT_LEAST = 0.05
"""Solved share from which on a fall can be told from noise: below it, half of the best is within noise."""
COLLAPSED = 0.5
"""Of the best window's solved share. Healthy runs never came below 0.94 of it."""
NEVER_SOLVED = 0.02
"""Solved share below which hardly any dialogue teaches more than the form of an answer."""
WELL_FORMED = 0.9
"""Share of well-formed first attempts from which on the form is not what is missing."""

REPEATS, REPEATS_RISE = 0.5, 0.2
"""Share of second attempts that repeat, and its rise above the lowest window. Hard questions, which are left when the
easy ones are solved, raise it a little: the healthy run by 0.05 at most."""
REPEATS_ALWAYS = 0.9
"""Share that is a failure however the run began: feedback is not read. The arithmetic warm start begins at 0.6."""

FIRST_FALL, LATER_RISE = 0.1, 0.05
"""Fall of first attempts from their best window, 4 errors of the difference (healthy: 0.03 at most); rise of
later attempts since."""
SOLVED_KEPT = 0.5
"""Of that fall: if all solved dialogues fell by more, the policy is just worse, not waiting for later attempts."""

ABANDONED, ABANDONED_RISE = 0.8, 0.25
"""Share of right answers given up, and its rise above the first evaluation. Leaving an answer that is called wrong is
what training teaches, so a rise is no failure: the healthy run went from 0.01 to 0.58. Above 0.8 it leaves all."""
PROBES = 3
"""Evaluations that are averaged: few right first answers stand behind each, with 20 of them the error is 11 points."""

BOX_SPAM_RISE = 0.05
"""Above the first window: models that were trained on maths do it in well below 1 % of responses."""

TRUNCATED_RISE = 0.15
"""Above the lowest window: longer reasoning runs into a limit now and then, but the price must not be lost to it."""
TRUNCATED_ALWAYS = 0.5
"""Share that is a failure however the run began: most of what is sampled cannot be rewarded."""

ENTROPY_LEFT, ENTROPY_AT_LEAST = 0.05, 0.02
"""Share of the first window's entropy below which nothing is explored any more (healthy: 0.16 at the end), and nats
that the first window must have for it."""
ENTROPY_TIMES, ENTROPY_MORE = 2.0, 0.5
"""Above the first window, both: twice as much of little is no noise yet. Healthy runs rose by 0.02 nats."""
KL_NATS = 1.0
"""Nats a token, median of a window: the policy is e times as sure of each of its tokens as the model it came from.
The start is 0 for every run, so that it is no measure. Healthy: 0.36 at most, single logs up to 3.2."""


Signature = Callable[[History], str | None]


# --- signatures ----------------------------------------------------------------------------------------------------


def well_formed_but_wrong(history: History) -> str | None:
    """Answers have their form and nothing else: the price of a wrong answer is all that is earned."""
    windows = history.having("episode/solved", "well_formed/attempt_1")
    if not windows or windows[-1]["well_formed/attempt_1"] < WELL_FORMED:
        return None
    solved, formed = windows[-1]["episode/solved"], windows[-1]["well_formed/attempt_1"]
    best = max(windows, key=lambda window: window["episode/solved"])
    if best["episode/solved"] >= BEST_AT_LEAST and solved < COLLAPSED * best["episode/solved"]:
        seen = f"{_percent(solved)} of the dialogues are solved, after {_percent(best['episode/solved'])} {_at(best)}"
        todo = f"Go back to a checkpoint before step {windows[-1].first_step}, and lower learning_rate or raise beta"
    elif history.settled and solved < NEVER_SOLVED:
        seen = f"only {_percent(solved)} of the dialogues are solved"
        todo = "Train on easier questions, or on more samples of each; look at the completions for what is missing"
    else:
        return None
    return f"{seen}, while {_percent(formed)} of first attempts are well formed: answers in form alone. {todo}."


def repeated_answer(history: History) -> str | None:
    """After a failure the policy says the same again."""
    windows = history.having("repeat_rate/attempt_2")
    if not windows:
        return None
    repeats, lowest = windows[-1]["repeat_rate/attempt_2"], min(one["repeat_rate/attempt_2"] for one in windows)
    if repeats >= REPEATS and repeats >= lowest + REPEATS_RISE:
        seen = (
            f"{_percent(repeats)} of second attempts repeat the answer that failed, after {_percent(lowest)} at best"
        )
    elif history.settled and repeats >= REPEATS_ALWAYS:
        seen = f"{_percent(repeats)} of second attempts repeat the answer that failed, and training does not change it"
    else:
        return None
    return (
        f"{seen}: feedback is not used. Raise temperature or max_attempts, and check that the prompt shows feedback."
    )


def sandbagging(history: History) -> str | None:
    """First attempts get worse while later ones get better: the policy keeps its answer back."""
    windows = history.having("accuracy/within_1", "wrong_to_right", "episode/solved")
    if not windows:
        return None
    best, now = max(windows, key=lambda window: window["accuracy/within_1"]), windows[-1]
    fall = best["accuracy/within_1"] - now["accuracy/within_1"]
    rise = now["wrong_to_right"] - best["wrong_to_right"]
    lost = best["episode/solved"] - now["episode/solved"]
    if fall < FIRST_FALL or rise < LATER_RISE or lost > SOLVED_KEPT * fall:
        return None
    return (
        f"first attempts fell from {_percent(best['accuracy/within_1'])} {_at(best)} to "
        f"{_percent(now['accuracy/within_1'])}, while later ones rose from {_percent(best['wrong_to_right'])} to "
        f"{_percent(now['wrong_to_right'])}: answers are kept back for later attempts. Pay each attempt "
        "for itself (credit=own), or give more questions a single one (single_attempt_share)."
    )


def abandoned_answer(history: History) -> str | None:
    """A right answer is given up because it was called wrong."""
    for name, shares in history.probes.items():
        if len(shares) <= PROBES:  # the first one is what the others are held against
            continue
        share = sum(shares[-PROBES:]) / PROBES
        if share >= ABANDONED and share >= shares[0] + ABANDONED_RISE:
            return (
                f"{_percent(share)} of right first answers to {name} are given up when they are called wrong (mean of "
                f"{PROBES} evaluations), after {_percent(shares[0])} in the first: the policy follows feedback, not "
                "the question. Raise beta, or train with more questions at one attempt (a lower max_attempts)."
            )
    return None


def box_spam(history: History) -> str | None:
    """Many boxes in a response: guesses in a row."""
    key = "grading/exploits/box_spam"
    windows = history.having(key)
    if not windows or windows[-1][key] < windows[0][key] + BOX_SPAM_RISE:
        return None
    return (
        f"{_percent(windows[-1][key])} of responses have more than three different boxes, after "
        f"{_percent(windows[0][key])} at the start: the policy guesses in a row. Set stop_at_box, which ends an "
        "attempt at its first box."
    )


def truncation(history: History) -> str | None:
    """Attempts or dialogues run into a token limit."""
    limits = {"truncated/attempt_1": "max_completion_length", "episode/truncated": "max_episode_tokens"}
    for key, limit in limits.items():
        windows = history.having(key)
        if not windows:
            continue
        share, lowest = windows[-1][key], min(window[key] for window in windows)
        rose = share >= lowest + TRUNCATED_RISE
        if not rose and not (history.settled and share >= TRUNCATED_ALWAYS):
            continue
        what = "first attempts are cut" if key == "truncated/attempt_1" else "dialogues end"
        return (
            f"{_percent(share)} of {what} at a token limit, {_percent(lowest)} in the best window: such answers "
            f"cannot be rewarded, and length may be what is learned. Raise {limit}, or look for endless "
            "completions."
        )
    return None


def entropy_collapse(history: History) -> str | None:
    """Nothing is tried any more."""
    windows = history.having("entropy")
    if not windows or windows[0]["entropy"] < ENTROPY_AT_LEAST:
        return None
    start, now = windows[0]["entropy"], windows[-1]["entropy"]
    if now >= ENTROPY_LEFT * start:
        return None
    return (
        f"entropy is {now:.2g} nats a token, {_percent(now / start)} of the {start:.2g} at the start: every attempt "
        "comes out the same, and nothing new can be learned. Lower learning_rate, or raise beta or temperature."
    )


def entropy_explosion(history: History) -> str | None:
    """The policy forgets how to write."""
    windows = history.having("entropy")
    if not windows:
        return None
    start, now = windows[0]["entropy"], windows[-1]["entropy"]
    if now < ENTROPY_TIMES * start or now < start + ENTROPY_MORE:
        return None
    return (
        f"entropy is {now:.2g} nats a token, after {start:.2g} at the start: what is sampled turns into noise. Lower "
        f"learning_rate or raise beta, and go back to a checkpoint before step {windows[-1].first_step}."
    )


def kl_runaway(history: History) -> str | None:
    """The policy has left the model that it came from."""
    windows = history.having("kl")
    if not windows or windows[-1]["kl"] < KL_NATS:
        return None
    return (
        f"the KL to the initial model is {windows[-1]['kl']:.2g} nats a token, above {KL_NATS:g}: the policy leaves "
        f"what it was trained on. Lower learning_rate or raise beta, and go back to a checkpoint before step "
        f"{windows[-1].first_step}."
    )


SIGNATURES: dict[str, Signature] = {
    one.__name__: one
    for one in (
        well_formed_but_wrong,
        repeated_answer,
        sandbagging,
        abandoned_answer,
        box_spam,
        truncation,
        entropy_collapse,
        entropy_explosion,
        kl_runaway,
    )
}
"""By the name that the log and the warnings have."""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _at(window: Window) -> str:
    return f"in steps {window.first_step} to {window.last_step}"
