"""Saves what `bench/gpu.sh` trains: the recipes' architecture with random weights, a tokenizer, and questions.

    python bench/gpu_model.py FOLDER [--small] [--tokenizer FOLDER]

A random model hardly ever ends its turn, so dialogues are as long as their caps, and its answers are never right. Time
and memory do not depend on what is said.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PAPER
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.planning.model_size import read_config

MODEL = "Qwen/Qwen2.5-Math-1.5B"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "qwen2.5-tokenizer"
TEMPLATE = "qwen2_5"
QUESTIONS_FILE, QUESTIONS = "questions.jsonl", 1024
SENTENCE = " What is the remainder when {a} is divided by 7?"
SHORT, LONGEST = 64, 960
"""Each second prompt is as long as the recipes let it be, so that each rollout has one, of a single group too; in the
others the problem has about the median of the paper's questions."""
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens of Qwen2.5."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def save_model(folder: Path, tokenizer: PreTrainedTokenizerBase, *, small: bool) -> None:
    """The architecture as `multiattempt plan` knows it; `small` makes it thin, with no more rows than are needed."""
    config = read_config(MODEL)
    if small:
        config.update(SMALL | {"vocab_size": max(512, len(tokenizer)), "layer_types": None})
        config = type(config)(**config.to_dict())
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def save_questions(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Questions whose prompts, in the paper's words, have `LONGEST` tokens at most."""
    renderer = Renderer(tokenizer)

    def tokens(problem: str) -> int:
        question = Question(id="0", problem=problem, answer="0")
        return len(renderer.prompt_ids(Environment(question=question, budget=5, preset=PAPER).first_messages()))

    around = tokens(".")
    rows = []
    for number in range(QUESTIONS):
        sentence = SENTENCE.format(a=1000 + number)
        room = LONGEST - around if number % 2 else SHORT
        times = max(room // len(tokenizer(sentence)["input_ids"]), 1)
        rows.append({"id": f"made-{number}", "problem": (sentence * times).strip(), "answer": str(number % 7)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tokenizer", help="a folder, a Hub id, or `bytes`")
    told = parser.parse_args()
    name = told.tokenizer or ("bytes" if told.small else str(BESIDE) if BESIDE.is_dir() else MODEL)
    tokenizer = bytes_tokenizer() if name == "bytes" else load_tokenizer(name)
    tokenizer.save_pretrained(told.folder)
    save_model(told.folder, tokenizer, small=told.small)
    save_questions(told.folder / QUESTIONS_FILE, load_tokenizer(told.folder, TEMPLATE))


if __name__ == "__main__":
    main()
