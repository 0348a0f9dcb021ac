"""Which share of a model each process holds, as an accelerate configuration says it, before anything is launched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

SHARDING = {0: "none", 1: "optimizer", 2: "optimizer and gradients", 3: "optimizer, gradients and weights"}
"""What a ZeRO stage divides among the processes (arXiv 1910.02054, section 5)."""
PLAIN = ("NO", "MULTI_GPU", "MULTI_CPU")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One process per GPU; the defaults are one plain process."""

    processes: int = 1
    stage: int = 0
    """Of ZeRO; FSDP shards as stage 3."""
    engine: str = "plain"
    """`plain` (one process, or DDP), `deepspeed` or `fsdp`."""
    mixed_precision: str = "no"
    offload_optimizer: bool = False
    offload_weights: bool = False

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """From the YAML file that `accelerate launch --config_file` reads.

        Raises `ValueError` for a file that is none, and for a kind of launch that is not known here.
        """
        if not Path(path).is_file():
            raise ValueError(f"there is no accelerate configuration {str(path)!r}")
        try:
            said = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(said, dict) or "distributed_type" not in said:
            raise ValueError(f"{path} is not an accelerate configuration: it has no distributed_type")
        return cls._of(said, path)

    @classmethod
    def _of(cls, said: dict[str, Any], path: str | Path) -> Self:
        kind = str(said["distributed_type"]).upper()
        kind = "NO" if kind == "FALSE" else kind  # what YAML makes of an unquoted NO
        processes = said.get("num_processes") or 1
        if not isinstance(processes, int) or processes < 1:
            raise ValueError(f"{path}: num_processes must be a number above 0, got {processes!r}")
        precision = str(said.get("mixed_precision") or "no").lower()
        precision = "no" if precision == "false" else precision
        if kind in PLAIN:
            # Without a distributed type accelerate starts one process, whatever else the file says.
            return cls(processes=1 if kind == "NO" else processes, mixed_precision=precision)
        if kind == "FSDP":
            offloaded = bool((said.get("fsdp_config") or {}).get("fsdp_offload_params"))
            return cls(
                processes=processes,
                stage=3,
                engine="fsdp",
                mixed_precision=precision,
                offload_optimizer=offloaded,
                offload_weights=offloaded,
            )
        if kind != "DEEPSPEED":
            raise ValueError(f"{path}: distributed_type {kind} cannot be planned, only NO, MULTI_GPU, DEEPSPEED, FSDP")
        zero = said.get("deepspeed_config") or {}
        stage = zero.get("zero_stage", 2)
        if stage not in SHARDING:
            raise ValueError(f"{path}: zero_stage must be 0, 1, 2 or 3, got {stage!r}")
        return cls(
            processes=processes,
            stage=stage,
            engine="deepspeed",
            mixed_precision=precision,
            offload_optimizer=zero.get("offload_optimizer_device", "none") != "none",
            offload_weights=stage == 3 and zero.get("offload_param_device", "none") != "none",
        )

    def shards(self, stage: int) -> int:
        """Among how many processes that is divided which ZeRO divides from `stage` on."""
        return self.processes if self.stage >= stage else 1

    def __str__(self) -> str:
        gpus = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        kind = {"plain": "DDP" if self.processes > 1 else "", "fsdp": "FSDP"}.get(self.engine, f"ZeRO-{self.stage}")
        moved = [
            name for name, off in (("optimizer", self.offload_optimizer), ("weights", self.offload_weights)) if off
        ]
        offload = f"{' and '.join(moved)} on the CPU" if moved else ""
        return ", ".join(part for part in (gpus, kind, offload) if part)
