"""Plans and runs of an evaluation: played by a scripted model, and by a small random one."""

import json
from typing import Any

import pytest
import torch
from scripted import END, QUESTIONS, SCRIPT, CharTokenizer, R, ScriptedBackend, exact, plan
from scripted import play_script as play
from transformers import Qwen2Config, Qwen2ForCausalLM

from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.evaluation.backends import borrowed, open_models
from multiattempt_trl.evaluation.protocols import PROBES, EvalPlan, Run, plan_runs
from multiattempt_trl.evaluation.results import blocks, summary
from multiattempt_trl.evaluation.run import evaluate
from multiattempt_trl.rollout.sampling import Sampling

WARM = Sampling(temperature=1.0)


def test_nested_by_hand() -> None:
    played, opened = play(plan())
    block = blocks(played)["toy"]
    assert [one.run.name for one in opened] == ["main", "independent"]
    assert block["n"] == 4
    assert block["accuracy"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    # Second attempts: b, c, d, of which c repeats 5; d had no answer to repeat. Third: c (no), d (yes).
    assert block["repeat_rate"] == pytest.approx({"2": 1 / 3, "3": 1 / 2})
    # First attempts: a of 4. Second: b of 3. Third: c of 2.
    assert block["solved_after_failures"] == pytest.approx({"1": 1 / 4, "2": 1 / 3, "3": 1 / 2})
    assert block["well_formed_rate"] == pytest.approx(8 / 9)  # 1 + 2 + 3 + 3 attempts, one without a box
    assert block["mean_attempts"] == 9 / 4
    # 3, 1, 0 and 2 of 3 right: see test_statistics.test_block_by_hand.
    assert block["pass_at_k"] == pytest.approx({"1": 1 / 2, "2": 2 / 3, "3": 3 / 4})
    assert summary(played)["average"]["accuracy"] == block["accuracy"]


def test_nested_announces_the_whole_budget_and_the_control_one_attempt() -> None:
    _, (nested, control) = play(plan())
    assert all("You have 3 attempts.\n" in prompt for prompt in nested.prompts)
    assert len(control.prompts) == 4 * 3
    assert all("You have 1 attempt.\n" in prompt and "wrong" not in prompt for prompt in control.prompts)
    assert control.run.sampling.temperature == 1.0


def test_paper_protocol_prompts_each_budget_in_its_own_words() -> None:
    played, opened = play(plan(protocol="paper", independent=0))
    announced = [{prompt.split("You have ")[1].split(".")[0] for prompt in backend.prompts} for backend in opened]
    assert announced == [{"1 attempt"}, {"2 attempts"}, {"3 attempts"}]
    assert list(played.episodes["toy"]) == ["main"]
    assert [episode.budget for episode in played.episodes["toy"]["main"]] == [1] * 4 + [2] * 4 + [3] * 4
    block = blocks(played)["toy"]
    assert block["accuracy"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    assert block["announced"] == {"1": 0.25, "2": 0.25, "3": 0.25}
    assert block["pass_at_k"] == {}


def test_every_control_and_probe_by_hand() -> None:
    # After a's right answer, said to be wrong, comes another; the base model says its first line for ever.
    script = {**SCRIPT, "a?": [R, "\\boxed{9}"]}
    played, opened = play(plan(probes=PROBES, base_model="base"), script=script)
    names = ["main", "independent", "false_feedback", "hidden_count", "wrong_count"]
    names += ["announced_1", "announced_2", "announced_3", "base"]
    assert [one.run.name for one in opened] == names, "the base model comes last, since it must be loaded"
    assert set(played.episodes["toy"]) == set(names)
    prompts = {one.run.name: one.prompts for one in opened}
    assert len(prompts["false_feedback"]) == 4 + 1
    assert "You have 3 attempts." in prompts["false_feedback"][0]
    assert (
        "Your answer is wrong. Try alternatives and refine your answer. You have 2 attempts left."
        in (prompts["false_feedback"][-1])
    )
    assert not any("attempt" in prompt for prompt in prompts["hidden_count"])
    assert all("You have 1 attempt.\n" in prompt for prompt in prompts["wrong_count"])
    for count in (1, 2, 3):
        counted = f"You have {count} attempt{'s' * (count > 1)}.\n"
        assert [counted in prompt for prompt in prompts[f"announced_{count}"]] == [True] * 4
    block = blocks(played)["toy"]
    assert block["base_accuracy"] == {"1": 0.25, "2": 0.25, "3": 0.25}
    assert block["probes"]["abandoned"]["n"] == 1
    assert block["probes"]["abandoned"]["share"] == 1.0
    assert block["probes"]["hidden_count"]["accuracy"] == block["accuracy"]
    assert block["announced"] == {"1": 0.25, "2": 0.25, "3": 0.25}


@pytest.mark.parametrize("count", ["hidden", "wrong"])
def test_the_probe_announced_shows_what_it_announces_whatever_the_count(count: str) -> None:
    _, opened = play(plan(probes=("announced",), count=count, independent=0))
    prompts = {one.run.name: one.prompts for one in opened}
    assert not any("You have 3 attempts." in prompt for prompt in prompts["main"])
    for number, said in ((1, "1 attempt"), (2, "2 attempts"), (3, "3 attempts")):
        assert [f"You have {said}.\n" in prompt for prompt in prompts[f"announced_{number}"]] == [True] * 4


def test_the_base_model_gets_the_prompts_of_each_budget_too() -> None:
    played, opened = play(plan(protocol="paper", independent=0, base_model="base"))
    assert [one.run.name for one in opened] == ["main"] * 3 + ["base"] * 3
    for main, base in zip(opened[:3], opened[3:], strict=True):
        assert set(base.prompts[:4]) == set(main.prompts[:4])
    assert [episode.budget for episode in played.episodes["toy"]["base"]] == [1] * 4 + [2] * 4 + [3] * 4
    assert blocks(played)["toy"]["base_accuracy"] == {"1": 0.25, "2": 0.25, "3": 0.25}


def test_sampled_asks_each_question_several_times() -> None:
    played, (main, _) = play(plan(protocol="sampled", samples=2, sampling=WARM))
    assert [(one.question.id, one.sample) for one in played.episodes["toy"]["main"]] == [
        (name, sample) for sample in (0, 1) for name in "abcd"
    ]
    assert main.run.sampling == WARM
    assert blocks(played)["toy"]["n"] == 4


def test_seeds_of_a_run_do_not_depend_on_its_neighbours() -> None:
    def seeds(*names: str, **changes: Any) -> dict[tuple[str, str, int], int]:
        runs = [run for name in names for run in plan_runs(plan(**changes), name, QUESTIONS)]
        return {(run.benchmark, run.name, run.environments[0].budget): run.seed for run in runs}

    both, alone = seeds("x", "y"), seeds("y")
    assert {which: both[which] for which in alone} == alone
    assert len(set(both.values())) == 4
    paper = seeds("x", protocol="paper")
    assert len(set(paper.values())) == 4, "each budget its own"
    assert seeds("x", seed=1) != seeds("x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "at least 1 attempt, got 0"),
        ({"protocol": "papre"}, "choose one of nested, paper, sampled"),
        ({"samples": 0}, "at least 1, got 0"),
        ({"samples": 2}, "greedy samples would all be the same"),
        ({"protocol": "sampled"}, "greedy samples would all be the same"),
        ({"independent": 2}, "pass@3 needs at least 3"),
        ({"independent": -3}, "at least K, got -3"),
        ({"independent_sampling": Sampling(temperature=0)}, "temperature above 0"),
        ({"feedback": "No. {0}"}, "unknown field '0'"),
        ({"probes": ("false_fedback",)}, "probe 'false_fedback' is unknown; choose among false_feedback"),
        ({"probes": ("false_feedback",), "budget": 1}, "at least 2 attempts"),
        ({"count": "guessed"}, "count 'guessed' is unknown"),
        ({"feedback": "No, {attempts} left.", "count": "hidden"}, "nothing is left of 'No, {attempts} left.'"),
        ({"feedback": "No, {attempts} left.", "probes": ("hidden_count",)}, "nothing is left of"),
    ],
)
def test_bad_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("a_plan", "benchmarks", "options", "message"),
    [
        (plan(), {"toy": []}, {}, "'toy' has no questions"),
        (plan(), {"toy": QUESTIONS + QUESTIONS[:1]}, {}, "question id 'a' twice"),
        (plan(limits=Limits(attempt=9, episode=9, context=20)), {"toy": QUESTIONS}, {}, "no room for an answer"),
        (plan(), {"toy": QUESTIONS}, {"shard_size": 0}, "at least 1, got 0"),
    ],
)
def test_bad_benchmarks_are_refused_before_anything_is_generated(
    a_plan: EvalPlan, benchmarks: dict[str, list[Question]], options: dict[str, Any], message: str
) -> None:
    def open_backend(run: Run) -> ScriptedBackend:
        raise AssertionError("generation began")

    options = {"shard_size": 9, "progress": False, **options}
    with pytest.raises(ValueError, match=message):
        evaluate(a_plan, benchmarks, open_backend, exact, Renderer(CharTokenizer()), **options)


def small_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=ord(END),
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def modelled(seed: int = 0, shard_size: int = 3, kind: str = "transformers") -> list[Episode]:
    """All dialogues of a random model, as text and facts."""
    model, base, tokenizer = small_model(), small_model(), CharTokenizer()
    state = torch.random.get_rng_state()
    renderer = Renderer(tokenizer)
    a_plan = plan(
        seed=seed, budget=2, limits=Limits(attempt=8, episode=16, context=600), samples=2, sampling=WARM,
        base_model="itself",
    )  # fmt: skip
    asked: list[str] = []

    def load_base() -> Qwen2ForCausalLM:
        asked.append("base")
        return base

    open_backend = open_models(kind, model, load_base, tokenizer, renderer, batch_size=2, memory_gib=1)  # type: ignore[arg-type]
    with borrowed(model):
        played = evaluate(
            a_plan, {"toy": QUESTIONS}, open_backend, exact, renderer, shard_size=shard_size, progress=False
        )
    assert asked == ["base"], "loaded once"
    assert torch.equal(torch.random.get_rng_state(), state)
    runs = played.episodes["toy"]
    assert {name: len(episodes) for name, episodes in runs.items()} == {"main": 8, "independent": 8, "base": 8}
    return [episode for episodes in runs.values() for episode in episodes]


def test_a_model_gives_the_same_episodes_for_the_same_seed() -> None:
    first = modelled()
    assert first == modelled()
    assert first == modelled(shard_size=100), "whoever stands beside whom"
    assert first == modelled(kind="continuous"), "and whatever generates"
    assert first != modelled(seed=1)


def test_the_mode_is_put_back_after_an_error() -> None:
    model = small_model().train()

    def fail() -> None:
        with borrowed(model):
            assert not model.training
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert model.training


def test_a_summary_is_json_in_its_order() -> None:
    said = summary(play(plan(base_model="base"))[0])
    assert list(said) == ["model", "base_model", "protocol", "seed", "budget", "versions", "benchmarks", "average"]
    assert {"torch", "transformers", "trl", "python", "multiattempt_trl"} <= set(said["versions"])
    assert json.loads(json.dumps(said, allow_nan=False)) == said
