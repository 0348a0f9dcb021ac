"""`multiattempt eval --compare`: placeholder until merged."""

from pathlib import Path


def compare_folders(folders: list[str], output: Path) -> None:
    raise NotImplementedError
