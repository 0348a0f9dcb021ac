"""TRL's `VLLMGeneration` around the stand-in for vLLM's engine: only how it is made is ours."""

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from trl.generation.vllm_generation import VLLMGeneration
from vllm_stand_ins import StandInEngine


class StandInLLM:
    """vLLM's `LLM`: its engine, and sleep. At level 2 the weights are gone, and nothing runs until all is awake."""

    def __init__(self, engine: StandInEngine) -> None:
        self.llm_engine = engine

    @torch.no_grad()
    def sleep(self, level: int = 1) -> None:
        assert not self.llm_engine.requests, "asleep with requests under way"
        self.llm_engine.calls.append(("sleep", level))
        self.llm_engine.awake.clear()
        for weight in self.llm_engine.model.parameters():
            weight.fill_(math.nan)

    def wake_up(self, tags: list[str]) -> None:
        self.llm_engine.calls.append(("wake_up", tuple(tags)))
        self.llm_engine.awake |= set(tags)

    def reset_prefix_cache(self) -> None:
        self.llm_engine.calls.append(("reset_prefix_cache", None))

    def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.llm_engine.calls.append(("generate", len(prompts)))
        return []


class StandInGeneration(VLLMGeneration):
    """In mode "colocate", on a model that is whole in this process."""

    def __init__(self, model: Any, *, sleep: bool = False, group: Any = None, **engine: Any) -> None:
        self.mode, self.model, self.enable_sleep_mode, self._llm_weights_sleeping = "colocate", model, sleep, sleep
        self.max_num_seqs = engine.get("slots")
        self.accelerator = SimpleNamespace(is_main_process=True, local_process_index=0)
        self._dist = SimpleNamespace(is_fsdp=False, gather_params=lambda _: nullcontext())
        self.engine = StandInEngine(model, **engine)
        self.llm = StandInLLM(self.engine)
        self.tensor_parallel_size = 1 if group is None else torch.distributed.get_world_size(group)
        if group is not None:
            self.tp_group = group
        if sleep:
            self.llm.sleep(level=2)
            self.engine.calls.clear()
