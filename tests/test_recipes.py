"""Every recipe, launcher configuration and README command is real: it parses, and names what exists."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from datasets import Dataset
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from multiattempt_trl.cli import COMMANDS
from multiattempt_trl.cli.arguments import EvalArguments, TaskArguments
from multiattempt_trl.cli.eval import EvalCommandArguments
from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains import get_domain
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.dataset import check_room, drop_long_prompts, to_dataset

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(ROOT.glob("recipes/*/*/*.yaml"))
EVALUATIONS = sorted([*ROOT.glob("recipes/eval/*.yaml"), *ROOT.glob("recipes/transfer/*.yaml")])
LAUNCHERS = sorted(ROOT.glob("accelerate_configs/*.yaml"))
CONFIGS = {"ppo": MultiAttemptPPOConfig, "grpo": MultiAttemptGRPOConfig}
ADAPTERS = [path for path in RECIPES if path.stem in ("lora", "qlora")]
CPU = ["--bf16", "false", "--use_cpu", "true"]


def test_all_of_them_are_visited() -> None:
    assert len(RECIPES) == 20
    assert len(EVALUATIONS) == 3
    assert len(ADAPTERS) == 4
    assert len(LAUNCHERS) == len(list((ROOT / "accelerate_configs").iterdir())) == 11


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.parts[-3:]))
def test_a_recipe_parses_and_a_command_line_value_wins(recipe: Path) -> None:
    parser = TrlParser((TaskArguments, EvalArguments, CONFIGS[recipe.parent.name], ModelConfig))
    task, _, args, model = parser.parse_args_and_config(
        ["--config", str(recipe), "--learning_rate", "0.125", "--max_attempts", "4", *CPU]
    )
    assert args.learning_rate == 0.125
    assert args.max_attempts == 4
    domain = get_domain(task.domain)
    domain.preset(args.prompt_preset)
    assert domain.build_model is not None or model.model_name_or_path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.parts[-3:]))
def test_a_recipe_names_its_own_launch_command_and_folder(recipe: Path) -> None:
    name, text = recipe.relative_to(ROOT).as_posix(), recipe.read_text(encoding="utf-8")
    header = text.split("\n\n")[0]
    assert f"-m multiattempt_trl {recipe.parent.name} \\\n#       --config {name}" in header
    assert name in header or name == "recipes/arithmetic/ppo/multi_attempt.yaml"
    for launcher in re.findall(r"accelerate_configs/\w+\.yaml", header):
        assert (ROOT / launcher).is_file()
    model, algorithm, arm = recipe.parts[-3], recipe.parts[-2], recipe.stem
    assert yaml.safe_load(text)["output_dir"] == f"outputs/{model}/{algorithm}/{arm}"


BASELINES = [path for path in RECIPES if path.stem == "single_attempt"]


def test_a_baseline_is_evaluated_in_the_words_of_the_recipe_beside_it() -> None:
    names = ("prompt_preset", "feedback", "max_remark_tokens", "count", "stop_at_box")
    for path in BASELINES:
        one, several = (yaml.safe_load(file.read_text("utf-8")) for file in (path, path.with_stem("multi_attempt")))
        assert [one.get(name) for name in names] == [several.get(name) for name in names], path
    assert len(BASELINES) == 5


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.parts[-3:]))
def test_a_misspelt_key_is_an_error_that_names_it(recipe: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(recipe.read_text(encoding="utf-8") + "\nmax_atempts: 3\n", encoding="utf-8")
    parser = TrlParser((TaskArguments, EvalArguments, CONFIGS[recipe.parent.name], ModelConfig))
    with pytest.raises(ValueError, match="max_atempts"):
        parser.parse_args_and_config(["--config", str(broken), *CPU])


def test_the_paper_recipe_has_the_papers_batches() -> None:
    recipe = ROOT / "recipes/qwen2.5-math-1.5b/ppo/multi_attempt.yaml"
    parser = TrlParser((TaskArguments, EvalArguments, MultiAttemptPPOConfig, ModelConfig))
    _, _, args, _ = parser.parse_args_and_config(["--config", str(recipe), *CPU])
    assert args.generation_batch_size == 1024
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 128
    assert (args.gamma, args.lam, args.epsilon, args.beta) == (1.0, 0.99, 0.2, 0.01)
    assert (args.learning_rate, args.critic_learning_rate) == (5e-7, 1e-5)
    assert args.num_generations == 1


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_a_recipe_of_an_evaluation_parses_and_names_itself_and_benchmarks_of_its_domain(path: Path) -> None:
    command, arguments = TrlParser((EvalCommandArguments, EvalArguments)).parse_args_and_config(
        ["--config", str(path)]
    )
    assert f"multiattempt eval --config {path.relative_to(ROOT).as_posix()} --model " in path.read_text(
        encoding="utf-8"
    )
    domain = get_domain(command.domain)
    assert set(arguments.benchmarks.split(",")) == set(domain.benchmarks)
    assert arguments.budget == 7
    if path.parent.name == "transfer":  # nothing is left to what the model was trained with
        domain.check_feedback(command.feedback)
        domain.check_stop_at_box(command.stop_at_box)
        assert command.prompt_preset == domain.default_preset
        assert None not in (command.feedback, command.stop_at_box, arguments.eval_count)


def test_a_rollout_of_the_code_recipes_takes_no_more_questions_than_there_are(shared: Path) -> None:
    """TRL drops a rollout that is not full."""
    train = get_domain("code").load_train(str(shared / "data" / "mbpp_sanitized.jsonl"))
    for path in ROOT.glob("recipes/qwen2.5-coder-1.5b/*/*.yaml"):
        parser = TrlParser((TaskArguments, EvalArguments, CONFIGS[path.parent.name], ModelConfig))
        _, _, args, _ = parser.parse_args_and_config(["--config", str(path), *CPU])
        assert args.generation_batch_size / args.num_generations == 96 < len(train) == 120
        assert args.steps_per_generation == 96  # 6 updates of 16 micro-batches
        assert args.save_steps % 6 == 0


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: "-".join(path.parts[-2:]))
def test_an_adapter_recipe_has_the_papers_batches_and_quantises_where_it_says(path: Path) -> None:
    parser = TrlParser((TaskArguments, EvalArguments, CONFIGS[path.parent.name], ModelConfig))
    _, _, args, model = parser.parse_args_and_config(["--config", str(path), *CPU])
    assert (args.generation_batch_size, args.update_batch_size) == (1024, 128)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 128
    adapter, quantisation = get_peft_config(model), get_quantization_config(model)
    assert (adapter.r, adapter.target_modules, adapter.lora_dropout) == (32, "all-linear", 0.0)
    assert model.dtype == "bfloat16"
    assert (quantisation is not None) == (path.stem == "qlora")
    if quantisation is not None:
        assert quantisation.quantization_method() == "nf4"
        assert quantisation.bnb_4bit_use_double_quant
        assert quantisation.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize("preset", ["paper", "paper-code"])
def test_the_paper_recipe_fits_the_real_models_context_on_the_real_questions(shared: Path, preset: str) -> None:
    """Of 4,096 tokens, 1,024 of prompt and 3,000 sampled, as in the script, leave too few for the feedback."""
    recipe = ROOT / "recipes/qwen2.5-math-1.5b/ppo/multi_attempt.yaml"
    parser = TrlParser((TaskArguments, EvalArguments, MultiAttemptPPOConfig, ModelConfig))
    _, _, args, _ = parser.parse_args_and_config(["--config", str(recipe), *CPU])
    maths = get_domain("maths")
    tokenizer = load_tokenizer(str(shared / "qwen2.5-tokenizer"), "qwen2_5")
    rows = to_dataset(maths.load_train(str(shared / "data" / "math_l3to5_train.jsonl")))
    longest = sorted(rows, key=lambda row: -len(row["problem"]))[:40]

    def environment(question: Question) -> Environment:
        return Environment(question=question, budget=args.max_attempts, preset=maths.preset(preset))

    kept, largest = drop_long_prompts(
        Dataset.from_list(longest), environment, Renderer(tokenizer), args.max_prompt_tokens
    )
    assert 25 <= len(kept) < 40
    limits = Limits(attempt=args.max_completion_length, episode=args.episode_tokens, context=4096)
    check_room(largest, limits, args.max_attempts)
    with pytest.raises(ValueError, match="context is 4000: lower"):
        check_room(largest, replace(limits, context=4000), args.max_attempts)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_a_launcher_configuration_parses_with_no_unknown_key(path: Path) -> None:
    config = load_config_from_file(str(path))  # raises for an unknown key
    assert config.num_processes >= 1
    known = {name.removeprefix("--") for action in launch_command_parser()._actions for name in action.option_strings}
    assert {"zero_stage", "zero3_init_flag", "fsdp_version"} <= known
    for section in ("deepspeed_config", "fsdp_config"):
        assert set(getattr(config, section, None) or {}) <= known, section


def test_deepspeed_configurations_leave_to_the_recipe_what_is_the_recipes() -> None:
    """A number there that differs from the recipe's would be an error, or win in silence."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")).get("deepspeed_config") for path in LAUNCHERS]
    stages = [config for config in found if config]
    assert len(stages) >= 5
    for config in stages:
        assert config["gradient_clipping"] == config["gradient_accumulation_steps"] == "auto"
        assert config["zero_stage"] != 3 or config["zero3_save_16bit_model"] is True


def test_every_command_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    made, called = set(), set()
    for document in documents:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            made |= set(re.findall(r"^(?:\$ )?make ([a-z-]+)", block, re.MULTILINE))
            called |= set(re.findall(r"multiattempt(?:_trl)? ([a-z]+)", block))
            for path in re.findall(r"(?:recipes|accelerate_configs)/[\w./-]+\.yaml", block):
                assert (ROOT / path).is_file(), f"{document.name} names {path}"
    assert {"train", "reproduce", "eval", "test"} <= made <= targets
    assert called <= set(COMMANDS)
    assert called


def test_no_document_was_left_with_a_place_to_fill_in() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert len(documents) >= 7
    for document in documents:
        assert "@@" not in document.read_text(encoding="utf-8"), document.name
