"""Silences, one by one, the lines of Lightning's that tell our users nothing."""

import logging
import re
import warnings

# What the opening lines say already, advertisements, and the normal end of a run.
LINES = re.compile(
    r"(GPU|TPU|HPU) available|limit_val_batches=1.0|val_check_interval=1\)|💡 Tip|"
    r"Restor(ing|ed all) states from the checkpoint|"
    r"Trainer\.fit.* stopped: `max_steps|"
    r"Trainer already configured with model summary|LOCAL_RANK|Initializing distributed|"
    r"distributed_backend=|^-{20,}|Using .*bfloat16 Automatic|Using .*16bit Automatic|Seed set to"
)


def keep(record: logging.LogRecord) -> bool:
    return not LINES.search(record.getMessage())


def quiet() -> None:
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(name).addFilter(keep)
    # Batches are made whole by one indexed read: workers would only add cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning's own call in `strategy.all_gather`.
    warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
    # Lightning's own call of a pytree function that torch has deprecated.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
