"""What is measured when training is over: on the checkpoints, as they stand on disk."""

from pathlib import Path

from gptlab.model import checkpoint
from gptlab.model.checkpoint import Loaded
from gptlab.training.checkpoint import copy
from gptlab.training.suites import OF_THE_LAST, Examiner, Results

VALID = ("loss", "perplexity", "bits_per_byte", "tokens")


def final_figures(examiner: Examiner, folder: Path) -> tuple[Loaded, Results]:
    """The best model, which best.ckpt holds from then on, and the figures of `after`.

    The last step need not have been validated while training: here it is, on the whole held-out
    text. Where an earlier one is better, the last one's validation is given beside, as `last/…`.
    """
    config = examiner.config
    best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"

    def load(path: Path) -> Loaded:
        loaded = checkpoint.load(path)
        loaded.net.to(examiner.plan.accelerator)
        return loaded

    def run(suites: list[str], loaded: Loaded) -> Results:
        return examiner.run(suites, loaded.net, config.data.final_tokens)

    at_end = chosen = load(last)
    results = run(["perplexity"], at_end)
    if best.exists() and (kept := load(best)).step != at_end.step:
        earlier = run(["perplexity"], kept)
        if results["valid/loss"] <= earlier["valid/loss"]:
            copy(last, best).replace(best)
        else:
            beside = {f"last/{name}": results[f"valid/{name}"] for name in VALID}
            chosen, results = kept, earlier | beside
    rest = [name for name in config.after if name != "perplexity"]
    results |= run([name for name in rest if name not in OF_THE_LAST], chosen)
    return chosen, results | run([name for name in rest if name in OF_THE_LAST], at_end)
