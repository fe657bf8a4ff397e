"""Train, inspect and compare small GPT language models.

    import gptlab

    run = gptlab.train("experiment=tiny_char", "data.path=novel.txt")
    print(run.summary.valid_loss, run.generate("Once upon a time", n=3))

Names are imported when they are first used: `import gptlab` alone imports neither torch nor Hydra.
`train` is a function, so no module may be called gptlab/train.py.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    from gptlab.api.model import GeneratedText, Model, load
    from gptlab.api.run import Run
    from gptlab.api.train import train
else:

    def __getattr__(name: str) -> Any:
        if name not in EXPORTS:
            raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
        return getattr(importlib.import_module(EXPORTS[name]), name)


__version__ = "0.1.0"
__all__ = ["GeneratedText", "Model", "Run", "UserError", "load", "train"]
EXPORTS = {
    "GeneratedText": "gptlab.api.model",
    "Model": "gptlab.api.model",
    "load": "gptlab.api.model",
    "Run": "gptlab.api.run",
    "train": "gptlab.api.train",
}


def __dir__() -> list[str]:
    return [*globals(), *EXPORTS]
