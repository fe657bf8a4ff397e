"""The LightningModule of a model that tells classes apart."""

import torch
import torch.nn.functional as F

from gptlab.data.loader import Batch
from gptlab.evaluation.classification import make_metrics, verdicts
from gptlab.training.module import LanguageModel


class Classifier(LanguageModel):
    """Trains as a language model does, its one target a message being the class at the last token;
    validates by what is right and wrong."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.metrics = make_metrics(self.net.config.n_classes)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits_NxC, labels_N = verdicts(self.net, batch)
        self.metrics.update(logits_NxC.argmax(dim=1), labels_N)
        self.validation["nats"].update(F.cross_entropy(logits_NxC, labels_N, reduction="sum"))
        self.validation["tokens"].update(torch.tensor(len(labels_N), device=self.device))
        self.validation["bytes"].update(torch.zeros((), device=self.device))  # of no text

    def scores(self, total: dict[str, float], nats: float) -> dict[str, float]:
        found = self.metrics.compute()
        scores = super().scores(total, nats)
        del scores["valid/bits_per_byte"]  # of no text
        return scores | {f"valid/{name}": float(found[name]) for name in ("accuracy", "f1")}
