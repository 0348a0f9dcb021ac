"""`multiattempt plan`: numbers worked by hand, formulae against the real tensors of small models, and the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForTokenClassification, Qwen2Config, Qwen2ForCausalLM
from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, add_fused_lm_head

from multiattempt_trl.cli import main
from multiattempt_trl.cli.plan import make_plan, read_card
from multiattempt_trl.cli.plan_inputs import FEEDBACK_TOKENS, lengths
from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import get_preset
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.planning import activations
from multiattempt_trl.training.planning.activations import Precision
from multiattempt_trl.training.planning.layout import Layout
from multiattempt_trl.training.planning.memory import Lengths, Setup, gradient_bytes, optimizer_bytes, weight_bytes
from multiattempt_trl.training.planning.model_size import ModelSize, adapter_size, critic_size, read_config
from multiattempt_trl.training.planning.phases import GIB, fits, peak, phases, usable
from multiattempt_trl.training.planning.remedies import Batches, _proposals
from multiattempt_trl.training.value_model import load_value_model

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(ROOT.glob("recipes/*/*/*.yaml"))
PAPER = str(ROOT / "recipes/qwen2.5-math-1.5b/ppo/multi_attempt.yaml")
SMALL = Qwen2Config(
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=1000,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)
FLOAT, AUTOCAST, HALF = (
    Precision(weights=4, compute=4),
    Precision(weights=4, compute=2),
    Precision(weights=2, compute=2),
)
PARAMETERS = 1_543_714_304
LENGTHS = Lengths(prompt=960, feedback=128, sampled=3000, attempt=3000, attempts=5, context=4096)


@pytest.fixture(scope="module")
def qwen() -> ModelSize:
    return ModelSize.of(read_config("Qwen/Qwen2.5-Math-1.5B"))


@pytest.fixture
def setup(qwen: ModelSize) -> Setup:
    """The paper's run on one GPU."""
    return Setup(
        policy=qwen,
        critic=critic_size(read_config("Qwen/Qwen2.5-Math-1.5B")),
        has_reference=True,
        lengths=LENGTHS,
        micro_batch=8,
        rollout_rows=128,
        rollout_share=1024,
    )


def zero(stage: int, processes: int, *, offload: bool = False) -> Layout:
    return Layout(
        processes=processes,
        stage=stage,
        engine="deepspeed",
        mixed_precision="bf16",
        offload_optimizer=offload,
        offload_weights=offload,
    )


# --- sizes, by hand ------------------------------------------------------------------------------------------------


def test_parameters_of_the_papers_model(qwen: ModelSize) -> None:
    # Embedding 151,936 x 1,536; a block has q and o 1,536 x 1,536 each, k and v 1,536 x 256, biases 1,536 + 2 x 256,
    # three MLP matrices 1,536 x 8,960 and two norms; one norm at the end.
    matrices = 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960
    block = matrices + 1536 + 2 * 256 + 2 * 1536
    assert qwen.parameters == 151_936 * 1536 + 28 * block + 1536 == PARAMETERS
    assert qwen.linear == 28 * matrices
    assert (qwen.layers, qwen.heads, qwen.kv_heads, qwen.head_dim, qwen.context) == (28, 12, 2, 128, 4096)


def test_parameters_of_its_critic_and_of_adapters(qwen: ModelSize) -> None:
    config = read_config("Qwen/Qwen2.5-Math-1.5B")
    assert critic_size(config).parameters == PARAMETERS + 1536 + 1  # one weight per hidden unit, and a bias
    untied = Qwen2Config(**{**SMALL.to_dict(), "tie_word_embeddings": False})
    assert critic_size(untied).parameters == ModelSize.of(untied).parameters - 1000 * 256 + 256 + 1
    # Per block q 1,536 + 1,536 and v 1,536 + 256, times the rank.
    two = adapter_size(config, LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    assert two.parameters == 28 * 16 * (1536 + 1536 + 1536 + 256) == 2_179_072
    assert (two.inputs, two.ranks, two.dropout) == (28 * 2 * 1536, 28 * 2 * 16, False)


def test_a_critic_counts_what_the_real_one_has(tiny_model: Path) -> None:
    config = read_config(str(tiny_model))
    assert critic_size(config).parameters == sum(
        each.numel() for each in load_value_model(str(tiny_model)).parameters()
    )
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    real = load_value_model(str(tiny_model), lora)
    setup = Setup(
        policy=ModelSize.of(config),
        critic=critic_size(config),
        has_reference=False,
        lengths=LENGTHS,
        micro_batch=1,
        rollout_rows=1,
        rollout_share=1,
        adapter=adapter_size(config, lora),
    )
    assert setup.critic is not None
    assert setup.trained(setup.critic) == sum(each.numel() for each in real.parameters() if each.requires_grad)


def test_states_of_one_plain_process(setup: Setup, qwen: ModelSize) -> None:
    # float32 weights, gradients, and AdamW's two moments of 4 bytes each.
    assert weight_bytes(setup, qwen) == 4 * PARAMETERS == 6_174_857_216
    assert gradient_bytes(setup, qwen) == 4 * PARAMETERS
    assert optimizer_bytes(setup, qwen) == 8 * PARAMETERS == 12_349_714_432
    half = replace(setup, weight_bytes=2)
    assert [count(half, qwen) for count in (weight_bytes, gradient_bytes, optimizer_bytes)] == [
        2 * PARAMETERS,
        2 * PARAMETERS,
        4 * PARAMETERS,
    ]


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [  # bytes per parameter on each of 8 GPUs: ZeRO's 2, 2 and 12, divided from stage 3, 2 and 1 on
        (0, 2, 2, 12),
        (1, 2, 2, 1.5),
        (2, 2, 0.25, 1.5),
        (3, 0.25, 0.25, 1.5),
    ],
)
def test_states_under_zero(
    setup: Setup, qwen: ModelSize, stage: int, weights: float, gradients: float, optimizer: float
) -> None:
    sharded = replace(setup, layout=zero(stage, 8))
    found = [count(sharded, qwen) for count in (weight_bytes, gradient_bytes, optimizer_bytes)]
    assert found == [weights * PARAMETERS, gradients * PARAMETERS, optimizer * PARAMETERS]


def test_offloading_leaves_no_states_on_the_gpu(setup: Setup, qwen: ModelSize) -> None:
    moved = replace(setup, layout=zero(3, 4, offload=True))
    assert [count(moved, qwen) for count in (weight_bytes, gradient_bytes, optimizer_bytes)] == [0, 0, 0]


def test_lora_trains_adapters_on_whole_copies_of_the_base(setup: Setup, qwen: ModelSize) -> None:
    config = read_config("Qwen/Qwen2.5-Math-1.5B")
    lora = adapter_size(config, LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    adapted = replace(setup, adapter=lora, weight_bytes=2)
    assert adapted.critic is not None
    assert weight_bytes(adapted, qwen) == 2 * PARAMETERS + 4 * 2_179_072  # PEFT's adapters are float32
    assert optimizer_bytes(adapted, qwen) == 8 * 2_179_072
    assert optimizer_bytes(adapted, adapted.critic) == 8 * (2_179_072 + 1537)  # and a head
    assert "reference weights" not in phases(adapted)[0].items  # the adapter is switched off instead
    quantised = replace(adapted, quantised="4bit")
    # 4 bits and a float32 scale for each 64 weights of the blocks; embedding, norms and biases stay.
    linear = 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    expected = linear * 0.5625 + 2 * (PARAMETERS - linear) + 4 * 2_179_072
    assert weight_bytes(quantised, qwen) == int(expected)
    assert quantised.critic is not None
    assert (
        weight_bytes(quantised, quantised.critic) - weight_bytes(quantised, qwen) == 6 * 1537
    )  # a float32 head beside
    nested = replace(adapted, quantised="4bit, double")
    assert weight_bytes(quantised, qwen) - weight_bytes(nested, qwen) == pytest.approx(linear * (3 / 64 - 1 / 4096))


def test_bytes_of_the_cache(qwen: ModelSize) -> None:
    # Keys and values, 28 layers, 2 heads of 128.
    assert activations.cache_bytes(qwen, 1, 1, HALF) == 2 * 28 * 2 * 128 * 2 == 28_672
    assert activations.cache_bytes(qwen, 1, 1, AUTOCAST) == 57_344
    assert activations.cache_bytes(qwen, 128, 1000, HALF) == 128 * 1000 * 28_672


def test_widths() -> None:
    assert LENGTHS.trained == 960 + 128 + 3000
    # The last attempt's prompt holds all but one token of the budget; the row beside it may have used one alone.
    assert LENGTHS.last_prompt == 960 + 128 + 2999
    assert LENGTHS.rollout == 4087 + 2999
    single = replace(LENGTHS, attempts=1, feedback=0)
    assert (single.last_prompt, single.rollout) == (960, 3960)


def test_what_a_remark_may_take_is_counted() -> None:
    told = {
        "output_dir": "x",
        "max_attempts": 5,
        "max_completion_length": 100,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    plain = lengths(MultiAttemptGRPOConfig(**told), 4096, [])
    hinted = lengths(MultiAttemptGRPOConfig(**told, feedback="hint", max_remark_tokens=50), 4096, notes := [])
    assert (plain.feedback, plain.remark) == (4 * FEEDBACK_TOKENS, 0)
    assert (hinted.feedback, hinted.remark) == (4 * (FEEDBACK_TOKENS + 50), 50)
    assert f"a feedback has {FEEDBACK_TOKENS + 50} tokens" in notes
    single = lengths(MultiAttemptGRPOConfig(**told | {"max_attempts": 1}, feedback="hint"), 4096, [])
    assert (single.feedback, single.remark) == (0, 0)


def test_a_feedback_of_the_paper_is_within_what_is_assumed(shared: Path) -> None:
    renderer = Renderer(load_tokenizer(str(shared / "qwen2.5-tokenizer"), "qwen2_5"))
    question = Question(id="q", problem="1 + 1?", answer="2")
    env = Environment(question=question, budget=5, preset=get_preset("paper"))
    lengths = [len(renderer.feedback_ids(env.feedback_message(used), ())) for used in range(1, 5)]
    assert max(lengths) <= FEEDBACK_TOKENS < 2 * max(lengths)


# --- formulae against real tensors -----------------------------------------------------------------------------------


def test_states_equal_those_of_a_real_step() -> None:
    model = Qwen2ForCausalLM(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(2, 8, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    size = ModelSize.of(SMALL)
    setup = Setup(
        policy=size, critic=None, has_reference=False, lengths=LENGTHS, micro_batch=1, rollout_rows=1, rollout_share=1
    )
    held = list(model.parameters())
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert weight_bytes(setup, size) == sum(each.nbytes for each in held)
    assert gradient_bytes(setup, size) == sum(each.grad.nbytes for each in held if each.grad is not None)
    assert optimizer_bytes(setup, size) == sum(each.nbytes for each in moments)


@pytest.mark.parametrize("precision", [FLOAT, AUTOCAST, HALF], ids=["float32", "autocast", "bfloat16"])
def test_the_cache_takes_what_a_real_one_takes(precision: Precision) -> None:
    """Under autocast too it is float32, as the residual stream is: twice what one would expect."""
    model = Qwen2ForCausalLM(SMALL).to(torch.bfloat16 if precision == HALF else torch.float32).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.casts):
        cache = model(input_ids=torch.ones(2, 8, dtype=torch.long), use_cache=True).past_key_values
        model(input_ids=torch.ones(2, 1, dtype=torch.long), past_key_values=cache)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == activations.cache_bytes(ModelSize.of(SMALL), 2, 9, precision)


def kept_by_autograd(model: torch.nn.Module, rows: int, width: int, *, autocast: bool) -> int:
    """Bytes of all storages that autograd keeps for the backward pass, parameters left out."""
    ids, mask = torch.ones(rows, width, dtype=torch.long), torch.ones(rows, width, dtype=torch.long)
    if rows > 1:
        mask[0, : width // 8] = 0
    parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    return sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in parameters)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", [FLOAT, AUTOCAST, HALF], ids=["float32", "autocast", "bfloat16"])
def test_activations_are_those_that_autograd_keeps(precision: Precision, checkpointing: bool, rows: int) -> None:
    model = Qwen2ForCausalLM(SMALL).to(torch.bfloat16 if precision == HALF else torch.float32).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    kept = kept_by_autograd(model, rows, 160, autocast=precision.casts)
    size = ModelSize.of(SMALL)
    assert activations.kept_bytes(size, rows, 160, precision, checkpointing=checkpointing) == pytest.approx(
        kept, rel=0.02
    )


@pytest.mark.parametrize(("precision", "above"), [(AUTOCAST, 1.05), (FLOAT, 1.25)], ids=["autocast", "float32"])
def test_activations_of_lora_are_an_upper_bound(precision: Precision, above: float) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    model = Qwen2ForCausalLM(SMALL).train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    kept = kept_by_autograd(get_peft_model(model, lora), 3, 160, autocast=precision.casts)
    adapter = adapter_size(SMALL, lora)
    counted = activations.kept_bytes(ModelSize.of(SMALL), 3, 160, precision, checkpointing=False, adapter=adapter)
    assert 0.99 * kept < counted < above * kept


def allocated_at_most(work: Callable[[], Any]) -> int:
    """The most bytes that the CPU's allocator has handed out at once while it works."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        held = work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events):
        now += size
        most = max(most, now)
    del held
    return most


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", [FLOAT, AUTOCAST, HALF], ids=["float32", "autocast", "bfloat16"])
def test_the_peak_of_a_critics_update_is_met_or_passed(precision: Precision, checkpointing: bool) -> None:
    config = Qwen2Config(**{**SMALL.to_dict(), "num_labels": 1, "classifier_dropout": 0.0})
    model = AutoModelForTokenClassification.from_config(config)
    model = model.to(torch.bfloat16 if precision == HALF else torch.float32).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    ids, mask = torch.ones(4, 384, dtype=torch.long), torch.ones(4, 384, dtype=torch.long)
    mask[0, :20] = 0

    def update() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.casts):
            logits = model(input_ids=ids, attention_mask=mask).logits
        logits.float().sum().backward()

    update()  # the gradients are there before, as in all micro-batches but the first
    size = critic_size(config)
    options = {"checkpointing": checkpointing}
    planned = activations.kept_bytes(size, 4, 384, precision, **options)
    planned += activations.block_backward_bytes(size, 4, 384, precision, **options)
    ratio = planned / allocated_at_most(update)
    assert 0.98 <= ratio <= 1.25


@pytest.mark.parametrize("precision", [FLOAT, AUTOCAST, HALF], ids=["float32", "autocast", "bfloat16"])
def test_the_peak_of_reading_prompts_is_met(precision: Precision) -> None:
    config = Qwen2Config(**{**SMALL.to_dict(), "intermediate_size": 1408})
    model = Qwen2ForCausalLM(config).to(torch.bfloat16 if precision == HALF else torch.float32).eval()
    ids, mask = torch.ones(4, 384, dtype=torch.long), torch.ones(4, 384, dtype=torch.long)
    mask[0, :20] = 0

    def read() -> Any:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.casts):
            return model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)

    size = ModelSize.of(config)
    planned = activations.forward_bytes(size, 4, 384, precision) + activations.cache_bytes(size, 4, 384, precision)
    planned += 2 * (size.linear + size.vocabulary * size.hidden) if precision.casts else 0
    assert planned == pytest.approx(allocated_at_most(read), rel=0.1)


def test_trl_never_holds_all_logits() -> None:
    assert (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE) == (activations.HEAD_TOKENS, activations.HEAD_COLUMNS)


# --- phases ----------------------------------------------------------------------------------------------------------


def test_the_papers_run_by_phase(setup: Setup) -> None:
    found = {phase.name: phase for phase in phases(setup)}
    assert list(found) == ["rollout", "scoring", "policy update", "critic update", "optimizer step"]
    critic = PARAMETERS + 1537
    step = found["optimizer step"].items
    assert step["policy weights"] + step["critic weights"] + step["reference weights"] == 4 * (2 * PARAMETERS + critic)
    assert step["optimizer states"] == 8 * (PARAMETERS + critic)
    assert step["gradients"] == 4 * (PARAMETERS + critic)
    assert step["step's temporaries"] == 4 * critic  # the policy's AdamW is fused, the critic's is not
    assert "gradients" not in found["rollout"].items  # they are freed by the step
    assert found["rollout"].items["KV cache"] == 128 * 4087 * 57_344
    # Reading 128 prompts of 4,087 tokens: three tensors of 8,960 in bf16, three of 1,536 in float32, and the mask.
    reading = 128 * 4087 * (3 * 8960 * 2 + 3 * 1536 * 4 + 4087)
    casts = 2 * setup.policy.linear + 2 * 151_936 * 1536
    assert found["rollout"].items["activations"] == reading + casts
    # A tile of 4,096 x 32,768 logits, one of the matrix, gradients of 8 x 4,088 hidden states and of the matrix.
    tile = 4096 * 32_768 * 2 + 32_768 * 1536 * 2
    assert found["policy update"].items["logits"] == tile + 8 * 4088 * 1536 * 8 + 151_936 * 1536 * 4
    assert peak(setup) == found["rollout"]


def test_less_work_at_a_time_takes_less(setup: Setup) -> None:
    totals = {phase.name: phase.total for phase in phases(setup)}
    for phase, smaller in [
        ("rollout", {"rollout_rows": 64}),
        ("policy update", {"micro_batch": 4}),
        ("critic update", {"micro_batch": 4}),
        ("policy update", {"forward_rows": 4}),
        ("rollout", {"critic": None}),
        ("scoring", {"has_reference": False}),
        ("optimizer step", {"layout": zero(2, 8)}),
        ("policy update", {"layout": zero(3, 8)}),
    ]:
        assert {p.name: p.total for p in phases(replace(setup, **smaller))}[phase] < totals[phase], smaller
    more = {p.name: p.total for p in phases(replace(setup, checkpointing=False))}
    assert more["policy update"] > 2 * totals["policy update"]
    ddp = replace(setup, layout=Layout(processes=2, mixed_precision="bf16"))
    buckets = 4 * (2 * PARAMETERS + 1537)  # a copy of every gradient
    assert phases(ddp)[0].total == totals["rollout"] + buckets


def test_zero_3_gathers_the_policy_for_a_rollout_unless_told_not_to(setup: Setup) -> None:
    sharded = replace(setup, layout=zero(3, 8))
    assert phases(sharded)[0].items["gathered weights"] == 2 * PARAMETERS
    assert phases(replace(sharded, gathers_for_rollout=False))[0].items["gathered weights"] == 2_000_000_000
    assert "gathered weights" not in phases(replace(setup, layout=zero(2, 8)))[0].items


# --- the command -----------------------------------------------------------------------------------------------------


def plan_json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    status: Any = 0
    try:
        main(["plan", *argv, "--json"])
    except SystemExit as end:
        status = end.code
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == (1 if data["fits"] is False else 0)
    return data


def accelerate_file(folder: Path, **said: Any) -> str:
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump({"mixed_precision": "bf16", **said}), encoding="utf-8")
    return str(path)


def deepspeed(folder: Path, stage: int, processes: int) -> str:
    config = {"zero_stage": stage, "offload_optimizer_device": "none", "offload_param_device": "none"}
    return accelerate_file(folder, distributed_type="DEEPSPEED", num_processes=processes, deepspeed_config=config)


def recipe_with(folder: Path, **batches: Any) -> str:
    """The paper's recipe, its batches given otherwise."""
    recipe = yaml.safe_load(Path(PAPER).read_text(encoding="utf-8"))
    names = {"update_batch_size", "generation_batch_size", "gradient_accumulation_steps", "steps_per_generation"}
    path = folder / "ppo" / "recipe.yaml"
    path.parent.mkdir(exist_ok=True)
    kept = {name: value for name, value in recipe.items() if name not in names}
    path.write_text(yaml.safe_dump(kept | batches), encoding="utf-8")
    return str(path)


def test_dialogues_and_steps_of_the_papers_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan_json(capsys, "--config", PAPER, "--tokens_per_second", "2500")
    schedule = found["schedule"]
    assert (schedule["questions"], schedule["rollout"], schedule["update"]) == (8521, 1024, 128)
    # 8 whole rollouts in an epoch of 8,521 questions, 160 epochs, 8 updates each: the paper's 1.28M samples, nearly.
    assert (schedule["rollouts"], schedule["steps"], schedule["episodes"]) == (1280, 10_240, 1_310_720)
    assert schedule["micro_batches"] == 10_240 * 16
    assert schedule["most_tokens"] == 1_310_720 * 3000
    assert schedule["expected_tokens"] == 1_310_720 * 1800  # 3 attempts of 600
    assert found["gpu_hours"] == pytest.approx(1_310_720 * 1800 / 2500 / 3600)
    assert found["fits"] is None
    assert any("8,521" in note for note in found["assumed"])
    trained = plan_json(
        capsys,
        "--config",
        PAPER,
        "--tokens_per_second",
        "2500",
        "--train_tokens_per_second",
        "5000",
        "--max_steps",
        "80",
    )
    assert trained["schedule"]["rollouts"] == 10
    assert trained["gpu_hours"] == pytest.approx(10_240 * 1800 / 3600 * (1 / 2500 + 1 / 5000))


def test_batches_over_all_processes_stay_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    launch = deepspeed(tmp_path, 2, 8)
    over_all = recipe_with(tmp_path, update_batch_size=128, generation_batch_size=1024)
    schedule = plan_json(capsys, "--config", over_all, "--accelerate", launch)["schedule"]
    assert (schedule["accumulation"], schedule["update"], schedule["rollout"]) == (2, 128, 1024)
    assert (schedule["steps"], schedule["micro_batches"]) == (10_240, 20_480)
    of_each = recipe_with(tmp_path, gradient_accumulation_steps=16, steps_per_generation=128)
    schedule = plan_json(capsys, "--config", of_each, "--accelerate", launch)["schedule"]
    assert (schedule["update"], schedule["rollout"]) == (1024, 8192)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.parts[-3:]))
def test_every_recipe_can_be_planned(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    found = plan_json(capsys, "--config", str(recipe))
    assert found["peak"]["bytes"] == max(phase["total"] for phase in found["phases"].values()) > 0
    assert ("critic update" in found["phases"]) == (recipe.parent.name == "ppo")
    assert found["schedule"]["steps"] > 0
    if "arithmetic" in recipe.parts:
        assert found["model"]["context"] == 512
        assert found["peak"]["bytes"] < 2 * GIB
    elif "lists" in recipe.parts:
        assert found["model"]["context"] == 1024


def test_all_recipes_were_visited() -> None:
    assert len(RECIPES) >= 8


def test_what_fits_and_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", "--config", PAPER, "--gpu", "80GB", "--rollout_batch_size", "128"])
    assert end.value.code == 1
    assert "does not fit" in capsys.readouterr().out
    main(["plan", "--config", PAPER, "--gpu", "80GB", "--rollout_batch_size", "32"])
    assert "It fits 80.00 GiB, of which 74.20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gpu", "argv"),
    [
        ("80GB", ["--rollout_batch_size", "128"]),
        ("80GB", ["--activation_checkpointing", "false", "--rollout_batch_size", "16"]),
        ("24GB", ["--use_peft", "true", "--lora_target_modules", "all-linear"]),
        ("24GB", ["--rollout_batch_size", "8", "--per_device_train_batch_size", "2"]),
        ("16GB", ["--use_peft", "true", "--load_in_4bit", "true", "--dtype", "bfloat16"]),
    ],
)
def test_a_remedy_is_a_command_line_that_fits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, gpu: str, argv: list[str]
) -> None:
    recipe = recipe_with(tmp_path, gradient_accumulation_steps=16, steps_per_generation=128)
    before = plan_json(capsys, "--config", recipe, "--gpu", gpu, *argv)
    assert before["fits"] is False
    after = plan_json(capsys, "--config", recipe, "--gpu", gpu, *argv, *before["remedy"]["arguments"])
    assert after["fits"] is True
    assert after["peak"]["bytes"] == before["remedy"]["bytes"] <= after["card"]["usable"]
    for name in ("rollout", "update", "steps"):
        assert after["schedule"][name] == before["schedule"][name]


def test_what_changes_the_learning_is_the_last_resort(capsys: pytest.CaptureFixture[str]) -> None:
    # Whole AdamW states of two models, 23 GiB, fit no 24 GB card whatever the batches.
    argv = ["--rollout_batch_size", "8", "--per_device_train_batch_size", "2"]
    found = plan_json(capsys, "--config", PAPER, "--gpu", "24GB", *argv)
    assert "--use_peft" in found["remedy"]["arguments"]
    with pytest.raises(SystemExit):
        main(["plan", "--config", PAPER, "--gpu", "24GB", *argv])
    assert "all-linear, which changes what is learnt" in capsys.readouterr().out
    assert plan_json(capsys, "--config", PAPER, "--gpu", "4GB", *argv)["remedy"] is None
    # bf16 weights would do alone, but so do smaller batches, and these change nothing.
    lora = ["--use_peft", "true", "--lora_target_modules", "all-linear", "--rollout_batch_size", "8"]
    found = plan_json(capsys, "--config", PAPER, "--gpu", "24GB", *lora)
    assert "--dtype" not in found["remedy"]["arguments"]
    assert plan_json(capsys, "--config", PAPER, "--gpu", "24GB", *lora, "--dtype", "bfloat16")["fits"]


def test_sharding_is_proposed_where_there_are_processes_to_share(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = accelerate_file(tmp_path, distributed_type="MULTI_GPU", num_processes=4)
    found = plan_json(capsys, "--config", PAPER, "--accelerate", plain, "--gpu", "24GB", "--rollout_batch_size", "8")
    assert "accelerate_configs/zero3.yaml" in found["remedy"]["arguments"]  # alone it is not enough, nor is ZeRO-2


VLLM = ["--use_vllm", "true"]
ENGINE = "vLLM's engine"


def test_a_colocated_vllm_takes_its_share_of_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    share = ["--vllm_gpu_memory_utilization", "0.4"]
    plain = plan_json(capsys, "--config", PAPER, "--gpu", "80GB")
    found = plan_json(capsys, "--config", PAPER, "--gpu", "80GB", *VLLM, *share)
    engine = 32 * GIB  # 0.4 of 80
    assert [phase[ENGINE] for phase in found["phases"].values()] == [engine] * 5
    # In a rollout it is the engine that holds keys and values, activations and logits.
    assert (
        found["phases"]["rollout"]["total"]
        == sum(
            found["phases"]["rollout"][item]
            for item in (
                "policy weights",
                "critic weights",
                "reference weights",
                "optimizer states",
                "rollout's tensors",
            )
        )
        + engine
    )
    assert found["phases"]["policy update"]["total"] == plain["phases"]["policy update"]["total"] + engine
    assert "vLLM's engine takes vllm_gpu_memory_utilization=0.4 of each card" in found["assumed"]
    # Asleep it is not there when the others come, which is what makes the run fit.
    assert found["fits"] is False
    assert found["remedy"]["arguments"] == ["--vllm_enable_sleep_mode", "true"]
    asleep = plan_json(capsys, "--config", PAPER, "--gpu", "80GB", *VLLM, *share, *found["remedy"]["arguments"])
    assert asleep["fits"] is True
    assert asleep["phases"]["rollout"] == found["phases"]["rollout"]
    assert asleep["phases"]["policy update"] == plain["phases"]["policy update"]
    assert any(line.endswith("=0.4 of each card, in a rollout alone") for line in asleep["assumed"])


def test_without_a_card_nobody_knows_what_vllm_takes(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan_json(capsys, "--config", PAPER, *VLLM)
    assert not any(ENGINE in phase or "KV cache" in phase for phase in found["phases"].values())
    assert "vLLM's engine is not counted: it takes 0.3 of each card, and none was named" in found["assumed"]


def test_a_vllm_server_has_other_cards(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan_json(capsys, "--config", PAPER, "--gpu", "80GB", *VLLM, "--vllm_mode", "server")
    assert not any(ENGINE in phase or "KV cache" in phase for phase in found["phases"].values())
    assert "the vLLM server has GPUs of its own, which are not counted" in found["assumed"]
    # Smaller rollouts would free nothing here.
    small = plan_json(capsys, "--config", PAPER, "--gpu", "24GB", *VLLM, "--vllm_mode", "server")
    assert small["fits"] is False
    assert "--rollout_batch_size" not in (small["remedy"] or {}).get("arguments", [])


def test_the_reserve(setup: Setup) -> None:
    assert usable(80 * GIB) == int(80 * GIB * 0.94) - GIB
    total = peak(setup).total
    assert fits(setup, int((total + GIB) / 0.94) + 1)
    assert not fits(setup, int((total + GIB) / 0.94) - 10)


@pytest.mark.parametrize(
    ("text", "gigabytes"), [("24GB", 24), ("80 gb", 80), ("16GiB", 16), ("40G", 40), ("24", 24), ("11.5", 11.5)]
)
def test_cards(text: str, gigabytes: float) -> None:
    assert read_card(text) == gigabytes * GIB


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--config", PAPER, "--gpu", "big"], "--gpu 'big' is not the size of a card"),
        (["--config", PAPER, "--gpu", "-4"], "not the size of a card"),
        (["--config", "no.yaml"], "there is no recipe 'no.yaml'"),
        ([], "say --algorithm ppo or grpo"),
        (["--config", PAPER, "--algorithm", "dpo"], "algorithm 'dpo' is unknown"),
        (["--config", PAPER, "--accelerate", "no.yaml"], "there is no accelerate configuration 'no.yaml'"),
        (["--config", PAPER, "--model_name_or_path", "nobody/nothing"], "pass a folder with its config.json"),
        (["--config", PAPER, "--load_in_4bit", "true"], "add --use_peft true"),
        (["--config", PAPER, "--use_vllm", "true", "--vllm_mode", "remote"], "must be 'colocate' or 'server'"),
        (
            ["--config", PAPER, "--use_vllm", "true", "--vllm_gpu_memory_utilization", "30"],
            "must be in (0, 1], got 30",
        ),
        (["--config", PAPER, "--questions", "0"], "questions must be above 0"),
        (["--config", PAPER, "--questions", "1000"], "1000 questions are fewer than one rollout takes (1024)"),
        (["--config", PAPER, "--max_atempts", "3"], "max_atempts"),
        (["--config", PAPER, "--update_batch_size", "100"], "which must divide it"),
        (["--config", PAPER, "--use_peft", "true", "--lora_target_modules", "nothing"], "LoRA cannot be put on"),
    ],
)
def test_wrong_input_ends_in_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", *argv])
    assert end.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("multiattempt plan: error: ")
    assert said in error


def test_a_batch_that_the_processes_cannot_share_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    launch = deepspeed(tmp_path, 2, 3)
    with pytest.raises(SystemExit) as end:
        main(["plan", "--config", PAPER, "--accelerate", launch, "--update_batch_size", "128"])
    assert end.value.code == 2
    assert "3 processes x per_device_train_batch_size=8 is 24 dialogues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "layout"),
    [
        ({"distributed_type": "NO", "num_processes": 1}, Layout(mixed_precision="bf16")),
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, Layout(processes=8, mixed_precision="bf16")),
        (
            {"distributed_type": "DEEPSPEED", "num_processes": 4, "deepspeed_config": {"zero_stage": 3}},
            Layout(processes=4, stage=3, engine="deepspeed", mixed_precision="bf16"),
        ),
        (
            {"distributed_type": "FSDP", "num_processes": 4, "fsdp_config": {"fsdp_version": 2}},
            Layout(processes=4, stage=3, engine="fsdp", mixed_precision="bf16"),
        ),
    ],
)
def test_layouts(tmp_path: Path, said: dict[str, Any], layout: Layout) -> None:
    assert Layout.read(accelerate_file(tmp_path, **said)) == layout


def test_the_command_line_says_how_many_processes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    launch = ["--accelerate", deepspeed(tmp_path, 3, 8)]
    assert make_plan(["--config", PAPER, *launch]).setup.layout == zero(3, 8)
    assert make_plan(["--config", PAPER, *launch, "--num_processes", "4"]).setup.layout == zero(3, 4)
    assert make_plan(["--config", PAPER, "--num_processes=2"]).setup.layout == Layout(processes=2)
    notes = make_plan(["--config", PAPER, "--num_processes", "2", "--min_processes", "4"]).notes
    assert any("min_processes=4" in note for note in notes)
    for wrong in ("0", "-1", "two"):
        with pytest.raises(SystemExit) as end:
            main(["plan", "--config", PAPER, "--num_processes", wrong])
        assert end.value.code == 2
        assert f"--num_processes must be a number above 0, got {wrong!r}" in capsys.readouterr().err


def test_caps_are_the_recipes(setup: Setup) -> None:
    planned = make_plan(["--config", PAPER, "--rollout_batch_size", "128"]).setup
    assert planned.lengths == LENGTHS
    assert planned == replace(setup, layout=planned.layout)


def test_an_offloading_layout(tmp_path: Path) -> None:
    config = {"zero_stage": 3, "offload_optimizer_device": "cpu", "offload_param_device": "cpu"}
    path = accelerate_file(tmp_path, distributed_type="DEEPSPEED", num_processes=4, deepspeed_config=config)
    layout = Layout.read(path)
    assert layout.offload_optimizer
    assert layout.offload_weights
    assert str(layout) == "4 processes, ZeRO-3, optimizer and weights on the CPU"
    plan = make_plan(["--config", PAPER, "--accelerate", path])
    assert plan.setup.layout == layout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_processes: 2", "it has no distributed_type"),
        ("- 1", "it has no distributed_type"),
        ("a: [", "is not YAML"),
        ("{distributed_type: MEGATRON_LM, num_processes: 2}", "MEGATRON_LM cannot be planned"),
        ("{distributed_type: MULTI_GPU, num_processes: 0.5}", "num_processes must be"),
        ("{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 4}}", "zero_stage must be 0, 1, 2 or 3, got 4"),
    ],
)
def test_layouts_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        Layout.read(path)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_a_proposed_layout_is_what_its_file_says(setup: Setup, qwen: ModelSize, name: str) -> None:
    ddp = replace(setup, layout=Layout(processes=4, mixed_precision="bf16"))
    config = read_config("Qwen/Qwen2.5-Math-1.5B")
    lora = adapter_size(config, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    batches = Batches(accumulation=4, steps_per_generation=32, over_all_processes=True)
    proposed = [each for each in _proposals(ddp, lora, batches) if f"accelerate_configs/{name}.yaml" in each.flags]
    file = ROOT / "accelerate_configs" / f"{name}.yaml"
    assert [each.sets["layout"] for each in proposed] == [replace(Layout.read(file), processes=4)]
    assert proposed[0].flags[2:] == ("--num_processes", "4")


def test_every_launcher_can_be_read() -> None:
    found = [Layout.read(path) for path in sorted((ROOT / "accelerate_configs").glob("*.yaml"))]
    assert len(found) >= 2
    assert all(layout.processes >= 1 for layout in found)
