"""LoRA and QLoRA: bases stay to the bit, the reference is the base, and what is saved opens alone and is the same."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForTokenClassification, LoraConfig
from safetensors.torch import load_file
from training_arguments import arguments, grade_by_length, logged, train_set
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM
from trl import ModelConfig, get_peft_config, get_quantization_config

from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.rollout.loading import load_model, load_tokenizer
from multiattempt_trl.training.adapters import mend_quantised
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = 2
CASES: dict[str, dict[str, Any]] = {
    "all-linear": {"lora_target_modules": ["all-linear"]},
    "list": {"lora_target_modules": ["q_proj", "down_proj"]},
    "regex": {"lora_target_modules": [r".*\.(q|v)_proj"]},
    "rslora": {"lora_target_modules": LINEAR, "use_rslora": True},
    "dora": {"lora_target_modules": LINEAR, "use_dora": True},
    "norms-whole": {"lora_target_modules": ["q_proj", "k_proj"], "lora_modules_to_save": ["norm"]},
    "lm-head-whole": {"lora_target_modules": ["q_proj", "k_proj"], "lora_modules_to_save": ["lm_head"]},
}
FEW = ["all-linear", "dora", "lm-head-whole"]
NF4 = {"load_in_4bit": True, "use_bnb_nested_quant": True}
QUANTISED = {
    "nf4": {"load_in_4bit": True},
    "nf4-double": NF4,
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


def lora(**options: Any) -> LoraConfig:
    """As `--use_peft` makes it."""
    asked: dict[str, Any] = {"lora_r": 4, "lora_target_modules": ["all-linear"], "use_peft": True} | options
    return get_peft_config(ModelConfig(**asked))


def ppo(
    folder: Path, model: Path, peft: LoraConfig | None, quantised: dict[str, Any] | None = None, **overrides: Any
) -> MultiAttemptPPOTrainer:
    dtype = overrides.pop("dtype", "float32")
    asked = {"max_attempts": 3, "critic_learning_rate": 2e-3, "model_init_kwargs": {"dtype": dtype}} | overrides
    return MultiAttemptPPOTrainer(
        str(model),
        MultiAttemptPPOConfig(**arguments(folder, **asked)),
        train_set(24),
        grade_by_length,
        preset=PRESET,
        quantization_config=get_quantization_config(ModelConfig(dtype=dtype, **(quantised or {}))),
        peft_config=peft,
    )


def grpo(folder: Path, model: Path, peft: LoraConfig, **overrides: Any) -> MultiAttemptGRPOTrainer:
    args = MultiAttemptGRPOConfig(**arguments(folder, max_attempts=3, num_generations=4, **overrides))
    return MultiAttemptGRPOTrainer(str(model), args, train_set(24), grade_by_length, preset=PRESET, peft_config=peft)


def copies(model: torch.nn.Module, *, trained: bool) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad == trained}


def without_wrappers(name: str) -> str:
    """A parameter's name in the checkpoint that the base was loaded from."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")


def read(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input ids and attention mask (B, P + T), and the policy's tokens (B, T)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, mask, (batch["completion_mask"] * batch["tool_mask"]).bool()


def rollout(trainer: MultiAttemptGRPOTrainer) -> dict[str, torch.Tensor]:
    trainer.model.train()
    return trainer._generate_and_score_completions(trainer.train_dataset.to_list()[:16])


@torch.no_grad()
def logps(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the policy's tokens, by the model's own logits in evaluation mode."""
    ids, mask, wanted = read(batch)
    was_training = model.training
    model.eval()
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    model.train(was_training)
    each = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return each[:, -wanted.size(1) :][wanted]


@torch.no_grad()
def values(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    ids, mask, wanted = read(batch)
    logits = model.eval()(input_ids=ids, attention_mask=mask).logits
    return logits[:, -wanted.size(1) - 1 : -1, 0].float()[wanted]


def greedy(model: Any, tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    asked = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        generated = model.eval().generate(**asked, max_new_tokens=12, do_sample=False)
    return generated[:, asked["input_ids"].size(1) :].tolist()


FILE = "adapter_model.safetensors"
KEYS = ("loss", "grad_norm", "reward", "kl", "value/loss", "value/grad_norm")


def resumes_to_the_digit(folder: Path, model: Path, peft: LoraConfig, **options: Any) -> None:
    """Eight steps over two rollouts, cut after four, equal eight in one go."""
    options |= {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    straight = ppo(folder / "straight", model, peft, **options)
    straight.train()
    resumed = ppo(folder / "resumed", model, peft, **options)
    torch.manual_seed(99)  # whatever state the new process is in
    resumed.train(resume_from_checkpoint=str(folder / "straight" / "checkpoint-4"))
    assert len(logged(resumed, *KEYS)["loss"]) == 8
    assert logged(resumed, *KEYS) == logged(straight, *KEYS)
    for ours, theirs in ((resumed.model, straight.model), (resumed.critic.model, straight.critic.model)):
        for name, parameter in theirs.named_parameters():
            assert torch.equal(parameter, ours.get_parameter(name)), name
    for part in (".", "critic"):
        saved = [load_file(one / "checkpoint-8" / part / FILE) for one in (folder / "straight", folder / "resumed")]
        assert saved[0].keys() == saved[1].keys()
        assert all(torch.equal(value, saved[1][name]) for name, value in saved[0].items())


@pytest.fixture(scope="module")
def bf16_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its weights in bfloat16, as the 1.5B model comes."""
    folder = tmp_path_factory.mktemp("bf16") / "model"
    Qwen2ForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    return folder


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused must be so before weights are loaded."""

    def loads(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(Qwen2ForCausalLM, "from_pretrained", loads)


class TestLora:
    @pytest.mark.parametrize("case", CASES)
    def test_the_bases_stay_to_the_bit_and_all_else_moves(self, case: str, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, lora(**CASES[case]), max_steps=8)
        models = (trainer.model, trainer.critic.model)
        before = [copies(model, trained=True) for model in models]
        assert not any("score" in name for name in before[0])
        assert any("score" in name for name in before[1])
        trainer.train()
        on_disk = load_file(tiny_model / "model.safetensors")
        for model, trained in zip(models, before, strict=True):
            frozen = {without_wrappers(name): value for name, value in copies(model, trained=False).items()}
            assert set(on_disk) <= set(frozen)
            assert all(torch.equal(frozen[name], value) for name, value in on_disk.items())
            assert [name for name, value in trained.items() if torch.equal(model.get_parameter(name), value)] == []

    @pytest.mark.parametrize("case", FEW)
    def test_stopped_and_resumed_equals_uninterrupted(self, case: str, tmp_path: Path, tiny_model: Path) -> None:
        resumes_to_the_digit(tmp_path, tiny_model, lora(**CASES[case]))

    @pytest.mark.parametrize(("build", "case"), [*((ppo, case) for case in CASES), *((grpo, case) for case in FEW)])
    def test_the_reference_is_the_untouched_base(
        self, build: Any, case: str, tmp_path: Path, tiny_model: Path
    ) -> None:
        trainer = build(tmp_path, tiny_model, lora(**CASES[case]), max_steps=8)
        trainer.train()
        kl = logged(trainer, "kl")["kl"]
        # DoRA divides by the norm of the weights and multiplies by it again, so its first KL is a rounding error.
        assert kl[0] == (pytest.approx(0, abs=1e-9) if case == "dora" else 0)
        assert min(kl[4:]) > 1e-6
        batch = rollout(trainer)
        base = logps(AutoModelForCausalLM.from_pretrained(tiny_model), batch)
        wanted = read(batch)[2]
        torch.testing.assert_close(batch["ref_per_token_logps"][wanted], base, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            batch["old_per_token_logps"][wanted], logps(trainer.model, batch), atol=1e-5, rtol=0
        )
        assert (batch["old_per_token_logps"][wanted] - base).abs().max() > 1e-3

    @pytest.mark.parametrize("case", CASES)
    def test_merged_or_beside_its_base_the_saved_policy_answers_alike(
        self, case: str, tmp_path: Path, tiny_model: Path
    ) -> None:
        trainer = ppo(tmp_path, tiny_model, lora(**CASES[case]), max_steps=8, learning_rate=2e-2)
        trainer.train()
        trainer.save_model(tmp_path / "out")
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").merge_and_unload().save_pretrained(tmp_path / "one")
        prompts = [row["problem"] for row in train_set(16)]
        opened = [load_model(path) for path in (tmp_path / "out", tmp_path / "one", tiny_model)]
        beside, merged, base = (greedy(model, load_tokenizer(tiny_model), prompts) for model in opened)
        assert merged == beside == greedy(trainer.model, load_tokenizer(tiny_model), prompts)
        assert beside != base

    @pytest.mark.parametrize("case", FEW)
    def test_the_saved_critic_opens_alone_and_gives_the_same_values(
        self, case: str, tmp_path: Path, tiny_model: Path
    ) -> None:
        trainer = ppo(tmp_path, tiny_model, lora(**CASES[case]), max_steps=8)
        trainer.train()
        trainer.save_model(tmp_path / "out")
        batch = rollout(trainer)
        opened = AutoPeftModelForTokenClassification.from_pretrained(tmp_path / "out" / "critic", num_labels=1)
        torch.testing.assert_close(values(opened, batch), batch["old_values"][read(batch)[2]], atol=1e-6, rtol=0)

    def test_dropout_is_in_nothing_that_is_compared(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, lora(lora_dropout=0.5), max_steps=8)
        trainer.train()
        first = rollout(trainer)
        wanted = read(first)[2]
        torch.testing.assert_close(
            first["old_per_token_logps"][wanted], logps(trainer.model, first), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(first["old_values"][wanted], values(trainer.critic.model, first), atol=1e-6, rtol=0)

    def test_trl_alone_would_sample_and_score_with_dropout(self, tmp_path: Path, tiny_model: Path) -> None:
        """Why `disable_dropout` is on by default here: when this fails, TRL has mended it."""
        trainer = ppo(tmp_path, tiny_model, lora(lora_dropout=0.5), max_steps=8, disable_dropout=False)
        trainer.train()
        batch = rollout(trainer)
        noise = batch["old_per_token_logps"][read(batch)[2]] - logps(trainer.model, batch)
        assert noise.abs().max() > 1e-3

    def test_a_bfloat16_base_gets_float32_adapters_and_head(self, tmp_path: Path, bf16_model: Path) -> None:
        trainer = ppo(tmp_path, bf16_model, lora(), dtype="bfloat16", bf16=True, max_steps=8, learning_rate=1e-5)
        for model in (trainer.model, trainer.critic.model):
            assert {value.dtype for value in copies(model, trained=True).values()} == {torch.float32}
        resumes_to_the_digit(tmp_path / "again", bf16_model, lora(), dtype="bfloat16", bf16=True)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
class TestQlora:
    @pytest.mark.parametrize(("kind", "dtype"), [*((kind, "bfloat16") for kind in QUANTISED), ("nf4", "float32")])
    def test_both_bases_are_quantised_and_stay_and_all_else_moves(
        self, kind: str, dtype: str, tmp_path: Path, tiny_model: Path
    ) -> None:
        trainer = ppo(
            tmp_path, tiny_model, lora(), QUANTISED[kind], dtype=dtype, bf16=dtype == "bfloat16", max_steps=8
        )
        models = (trainer.model, trainer.critic.model)
        frozen, trained = ([copies(model, trained=which) for model in models] for which in (False, True))
        packed = torch.int8 if kind == "int8" else torch.uint8
        for base, moving in zip(frozen, trained, strict=True):
            assert sum(value.dtype == packed for value in base.values()) == LAYERS * len(LINEAR)
            assert {value.dtype for value in moving.values()} == {torch.float32}
        trainer.train()
        for model, base, moving in zip(models, frozen, trained, strict=True):
            assert all(torch.equal(model.get_parameter(name), value) for name, value in base.items())
            assert [name for name, value in moving.items() if torch.equal(model.get_parameter(name), value)] == []
            assert all(model.get_parameter(name).isfinite().all() for name in moving)
        found = logged(trainer, "kl", "value/loss", "value/grad_norm")
        assert found["kl"][0] == 0
        assert min(found["kl"][4:]) > 1e-6
        assert torch.tensor(found["value/loss"] + found["value/grad_norm"]).isfinite().all()

    def test_the_head_is_not_quantised(self, tmp_path: Path, bf16_model: Path) -> None:
        critic = ppo(tmp_path, bf16_model, lora(), NF4, dtype="bfloat16").critic.model
        for head in (
            critic.base_model.model.score.original_module,
            critic.base_model.model.score.modules_to_save.default,
        ):
            assert type(head) is torch.nn.Linear
            assert head.weight.dtype == torch.float32
        assert critic.base_model.model.score.modules_to_save.default.weight.std() < 2 / 65  # N(0, 1 / (64 + 1))

    def test_the_reference_is_the_quantised_base(self, tmp_path: Path, bf16_model: Path) -> None:
        trainer = ppo(tmp_path, bf16_model, lora(), NF4, dtype="bfloat16", max_steps=8)
        trainer.train()
        batch = rollout(trainer)
        quantisation = get_quantization_config(ModelConfig(dtype="bfloat16", **NF4))
        base = AutoModelForCausalLM.from_pretrained(bf16_model, dtype="bfloat16", quantization_config=quantisation)
        mend_quantised(base)
        # Two decimals are what bfloat16 leaves of log-probabilities around -5.
        torch.testing.assert_close(batch["ref_per_token_logps"][read(batch)[2]], logps(base, batch), atol=0.05, rtol=0)

    def test_most_of_the_adapter_moves_at_a_small_learning_rate(self, tmp_path: Path, bf16_model: Path) -> None:
        """In bfloat16, as TRL has QLoRA's adapter, 98 % of the entries of A would stay at this rate."""
        trainer = ppo(tmp_path, bf16_model, lora(), NF4, dtype="bfloat16", bf16=True, max_steps=8, learning_rate=1e-5)
        before = copies(trainer.model, trained=True)
        trainer.train()
        moved = [
            (trainer.model.get_parameter(name) != value).float().mean()
            for name, value in before.items()
            if "lora_A" in name
        ]
        assert min(moved) > 0.9

    @pytest.mark.parametrize("options", [{}, {"use_dora": True}])
    def test_stopped_and_resumed_equals_uninterrupted(
        self, options: dict[str, Any], tmp_path: Path, bf16_model: Path
    ) -> None:
        resumes_to_the_digit(tmp_path, bf16_model, lora(**options), quantised=NF4, dtype="bfloat16", bf16=True)

    def test_neither_checkpointed_activations_nor_a_look_in_evaluation_mode_change_a_step(
        self, tmp_path: Path, bf16_model: Path
    ) -> None:
        """On a CPU with AVX512-BF16 bitsandbytes repacks weights read in eval mode, and would have no backward."""
        found = []
        for name in ("plain", "other"):
            checkpointed = {"activation_checkpointing": name == "other"}
            trainer = ppo(tmp_path / name, bf16_model, lora(), NF4, dtype="bfloat16", max_steps=8, **checkpointed)
            if name == "other":
                with torch.no_grad():
                    for model in (trainer.model, trainer.critic.model):
                        model.eval()(input_ids=torch.tensor([[5, 6, 7]]))
                        model.train()
            trainer.train()
            found.append(logged(trainer, *KEYS))
        assert found[0] == found[1]

    def test_what_is_saved_opens_on_a_quantised_base_and_is_the_same(self, tmp_path: Path, bf16_model: Path) -> None:
        trainer = ppo(tmp_path, bf16_model, lora(), NF4, dtype="bfloat16", max_steps=8)
        trainer.train()
        trainer.save_model(tmp_path / "out")
        batch = rollout(trainer)
        again = {
            "dtype": "bfloat16",
            "quantization_config": get_quantization_config(ModelConfig(dtype="bfloat16", **NF4)),
        }
        policy = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", **again)
        mend_quantised(policy)
        torch.testing.assert_close(logps(policy, batch), logps(trainer.model, batch), atol=0, rtol=0)
        again["quantization_config"].llm_int8_skip_modules = ["score"]
        critic = AutoPeftModelForTokenClassification.from_pretrained(
            tmp_path / "out" / "critic", num_labels=1, **again
        )
        # Opened so, the head is in bfloat16, which has three digits.
        torch.testing.assert_close(values(critic, batch), values(trainer.critic.model, batch), atol=1e-2, rtol=0)
        assert load_model(tmp_path / "out").peft_config  # `multiattempt eval`: beside the base as it was saved


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"lora_target_modules": ["q_proj", "query"]},
                "no module named query; its linear modules are down_proj, ",
            ),
            (
                {"lora_target_modules": ["query", "key"]},
                "lora_target_modules: the model has no module named key, query",
            ),
            (
                {"lora_target_modules": ["q_proj"]},
                r"'q_proj' matches no module: .* Write '.*\\.q_proj', or all-linear",
            ),
            ({"lora_modules_to_save": ["head"]}, "lora_modules_to_save: the model has no module named head"),
        ],
    )
    def test_names_that_match_nothing(
        self, options: dict[str, Any], message: str, tmp_path: Path, tiny_model: Path, no_weights: None
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ppo(tmp_path, tiny_model, lora(**options))

    def test_trained_biases_of_the_reference(self, tmp_path: Path, tiny_model: Path, no_weights: None) -> None:
        with pytest.raises(ValueError, match="bias='all' would train biases of the base model"):
            ppo(tmp_path, tiny_model, LoraConfig(bias="all", target_modules="all-linear"))

    def test_quantisation_without_an_adapter(self, tmp_path: Path, tiny_model: Path, no_weights: None) -> None:
        with pytest.raises(ValueError, match="trained by an adapter only: add --use_peft"):
            ppo(tmp_path, tiny_model, None, NF4)

    def test_quantisation_without_bitsandbytes(
        self, tmp_path: Path, tiny_model: Path, no_weights: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("multiattempt_trl.training.adapters.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"need bitsandbytes: pip install 'multiattempt_trl\[quantization\]'"):
            ppo(tmp_path, tiny_model, lora(), NF4)

    @pytest.mark.parametrize("which", ["model", "critic"])
    def test_an_adapter_as_the_model_to_start_from(self, which: str, tmp_path: Path, tiny_model: Path) -> None:
        out = tmp_path / "out"
        ppo(tmp_path, tiny_model, lora()).save_model(out)
        load_tokenizer(str(tiny_model)).save_pretrained(out)
        model, options = (out, {}) if which == "model" else (tiny_model, {"critic_model_name_or_path": out / "critic"})
        with pytest.raises(ValueError, match="holds an adapter, not a model to start from: merge it first"):
            ppo(tmp_path, model, lora(), **{key: str(value) for key, value in options.items()})
