"""The Python entry: `gptlab.train`, `gptlab.load`, `gptlab.Run` and `gptlab.Model`."""

import warnings

with warnings.catch_warnings():
    # In a notebook without ipywidgets, tqdm warns at the first import of this module, which
    # libraries do. Our progress bar needs no widgets.
    warnings.simplefilter("ignore")
    import tqdm.auto  # noqa: F401
