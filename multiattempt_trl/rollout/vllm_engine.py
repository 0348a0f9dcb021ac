"""A vLLM engine over a checkpoint as it is, for evaluation: what the colocate backend reads of TRL's own."""

from pathlib import Path

from trl.import_utils import is_vllm_available


def check_vllm() -> None:
    """Raises `ValueError` where vLLM is not installed."""
    if not is_vllm_available():
        raise ValueError(
            "the backend 'vllm' needs vLLM, which is not installed: pip install 'multiattempt_trl[vllm]', or choose "
            "'continuous', which needs no other package"
        )


class VLLMEngine:
    """Loads a checkpoint into vLLM; an engine for each process, which must see one GPU of its own.

    Args:
        model: a folder or a Hub id of a whole model; vLLM does not open an adapter as one.
        sequences: the most that are under way together.
        context: the longest dialogue, in tokens.
        gpu_memory_utilization: share of the GPU's memory that weights and cache may take.
        tensor_parallel_size: GPUs that hold one engine; above 1 only in a single process.
        processes: how many evaluate together.

    Raises `ValueError` for an adapter, and for tensor parallelism in several processes.
    """

    enable_sleep_mode = False
    tensor_parallel_size = 1
    """As the backend sees it: one process drives the engine, on however many GPUs."""
    tp_group = None

    def __init__(
        self,
        model: str,
        *,
        sequences: int,
        context: int,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        processes: int = 1,
    ) -> None:
        if (Path(model) / "adapter_config.json").is_file():
            raise ValueError(
                f"{model!r} is an adapter, which the backend 'vllm' does not open: merge it into its base model "
                "(peft's merge_and_unload), or choose the backend 'continuous'"
            )
        if tensor_parallel_size > 1 and processes > 1:
            raise ValueError(
                f"vllm_tensor_parallel_size={tensor_parallel_size} takes several GPUs for one engine, and each of the "
                f"{processes} processes would have one: evaluate in one process, or set it to 1"
            )
        from vllm import LLM

        self.max_num_seqs = sequences
        self.llm = LLM(
            model=model,
            max_num_seqs=sequences,
            max_model_len=context,
            dtype=dtype,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            # In several processes each has its own engine, on the GPU that its launcher gave it, as in TRL.
            distributed_executor_backend="external_launcher" if processes > 1 else None,
            # Log-probabilities of what was sampled from.
            logprobs_mode="processed_logprobs",
        )
