"""Train a GPT: `gptlab train`, the same as `python train.py`."""

from gptlab.config.cli import command
from gptlab.config.schema import TrainConfig


@command("train")
def main(config: TrainConfig) -> float | None:
    from gptlab.training.train import train  # heavy imports: after validation

    return train(config)


if __name__ == "__main__":
    main()
