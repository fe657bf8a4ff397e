"""Check the files and runs that a command names, before torch is imported: that takes seconds."""

from typing import Any

from gptlab.config.schema import EvaluateConfig, TrainConfig
from gptlab.utils import run_dir


def check_inputs(config: Any) -> None:
    """Raise UserError for a text, a run or a checkpoint that is missing or cannot be read."""
    from gptlab.files.find import check_files  # reads in formats of many libraries: not for --help

    if getattr(config, "resume", None):  # a resumed run may need neither
        return
    if data := getattr(config, "data", None):
        needs_path = data.source == "text" and not isinstance(config, EvaluateConfig)
        if needs_path or data.path is not None:
            check_files("data.path", data.path, data)
        if data.valid_path is not None:
            check_files("data.valid_path", data.valid_path, data)
    if isinstance(config, TrainConfig) and config.init_from and not config.model.pretrained:
        run_dir.find_checkpoint(config.init_from, config.run_root, "init_from")
    if hasattr(config, "run"):
        run_dir.find_checkpoint(config.run, config.run_root)
