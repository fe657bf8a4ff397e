"""Callbacks and a logger as a user would add them, that note what they hear."""

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

SEEN: list[object] = []


class Listener(Callback):
    """Logs a figure, and notes what Lightning gathered from it."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        module.log("mine", float(batch_idx), on_step=True, on_epoch=False, logger=False)
        SEEN.append((batch_idx, float(outputs["loss"]), trainer.global_step))

    def on_train_end(self, trainer, module) -> None:
        SEEN.append(float(trainer.callback_metrics["mine"]))


class Between(Callback):
    """Listens where the short loop calls nobody."""

    def on_after_backward(self, trainer, module) -> None:
        SEEN.append(next(module.net.parameters()).grad is not None)


class OwnLogger(Logger):
    """As small as Lightning allows."""

    name, version = "own", 0

    def __init__(self, save_dir: str):
        SEEN.append(save_dir)

    def log_metrics(self, metrics, step=None) -> None:
        SEEN.append((step, sorted(metrics)))

    def log_hyperparams(self, params) -> None:
        SEEN.append(params["model.n_layer"])
