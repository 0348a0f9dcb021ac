"""Mathematics: the paper's training set and its five benchmarks, judged by exact numbers and math-verify."""

from multiattempt_trl.dialogue.remarks import HINT
from multiattempt_trl.domains import Domain
from multiattempt_trl.domains.maths.data import BENCHMARKS, load_benchmark, load_train
from multiattempt_trl.graders.math_verify import MathVerifyGrader

DOMAIN = Domain(
    name="maths",
    load_train=load_train,
    load_benchmark=load_benchmark,
    benchmarks=tuple(BENCHMARKS),
    grader=MathVerifyGrader,
    feedback_styles={HINT: "the kind of error, where it can be told without the answer"},
    default_preset="paper",
)
