"""Programming: MBPP and HumanEval, where an attempt is a Python program that unit tests judge in a sandbox."""

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PAPER, PromptPreset
from multiattempt_trl.domains import Domain
from multiattempt_trl.domains.code.data import BENCHMARKS, load_benchmark, load_train
from multiattempt_trl.domains.code.grading import CodeGrader
from multiattempt_trl.domains.code.programs import written
from multiattempt_trl.domains.code.remarks import STYLES
from multiattempt_trl.domains.code.suites import Suite

PRESET = PromptPreset(
    name="code",
    system=None,
    user=(
        "Solve the task below in Python, with the standard library only. First think about the reasoning process step "
        "by step, then give the whole program in one block that begins with ```python and ends with ```. "
        "You have {attempts}.\n\nTask: {problem}"
    ),
    feedback_role=PAPER.feedback_role,
    feedback=(
        "Your program does not pass all tests. Try alternatives and refine your program. You have {attempts} left."
    ),
)


def write_gold(question: Question) -> str | None:
    """The reference solution in a block; None where the set has none."""
    solution = Suite.read(question.answer).solution
    return written(solution) if solution else None


DOMAIN = Domain(
    name="code",
    load_train=load_train,
    load_benchmark=load_benchmark,
    benchmarks=tuple(BENCHMARKS),
    grader=CodeGrader,
    feedback_styles=STYLES,
    default_preset=PRESET.name,
    presets={PRESET.name: PRESET},
    write_gold=write_gold,
)
