"""What a grader counts of its own work, for logs: what decided, what went wrong, what the model tried."""

import logging
from collections import Counter
from collections.abc import Iterable
from threading import Lock

from multiattempt_trl.graders.decision import Stage
from multiattempt_trl.graders.exploits import Exploit

logger = logging.getLogger(__name__)

ALERT_TIMEOUTS = 0.005
"""Share of answers that time out from which on something is wrong: real answers hardly ever do."""
UNREAD = ("too long", "too expensive", "not understood", "unparsed")
"""Reasons for which an answer was wrong without being understood."""


class GradingCounts:
    """Counts gradings from any thread; `collect` gives the shares since it was last called."""

    def __init__(self) -> None:
        self.answers = self.timeouts = 0
        """Since the beginning."""
        self._lock = Lock()
        self._stages: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._exploits: Counter[str] = Counter()
        self._seconds = 0.0
        self._warned = 0

    def add(self, stage: Stage, reason: str, exploits: Iterable[Exploit], seconds: float) -> None:
        with self._lock:
            self.answers += 1
            self.timeouts += reason == "timeout"
            self._stages[stage] += 1
            self._reasons[reason] += 1
            self._exploits.update(exploits)
            self._seconds += seconds

    def collect(self) -> dict[str, float]:
        """Shares of the answers since the last call, and CPU seconds of one; empty where there were none.

        Warns where more than `ALERT_TIMEOUTS` of all answers so far timed out, again each time their number doubles.
        """
        with self._lock:
            answers = self._stages.total()
            stages, reasons, exploits, seconds = self._stages, self._reasons, self._exploits, self._seconds
            self._stages, self._reasons, self._exploits, self._seconds = Counter(), Counter(), Counter(), 0.0
            alarm = self.timeouts > ALERT_TIMEOUTS * self.answers and self.timeouts >= 2 * self._warned
            if alarm:
                self._warned = self.timeouts
        if alarm:
            logger.warning(
                "%d of %d answers (%.1f %%) timed out in grading and count as wrong; look at them in the completions: "
                "a policy that writes such answers has found something",
                self.timeouts,
                self.answers,
                100 * self.timeouts / self.answers,
            )
        if not answers:
            return {}
        return {
            **{f"grading/share/{stage}": stages[stage] / answers for stage in Stage},
            "grading/timeouts": reasons["timeout"] / answers,
            "grading/unread": sum(reasons[reason] for reason in UNREAD) / answers,
            "grading/seconds_per_answer": seconds / answers,
            **{f"grading/exploits/{exploit}": exploits[exploit] / answers for exploit in Exploit},
        }
