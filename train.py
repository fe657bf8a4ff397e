"""Train a GPT: `python train.py`, `python train.py experiment=NAME`, `python train.py --help`."""

from gptlab.config.cli import command
from gptlab.config.schema import TrainConfig


@command("train")
def main(config: TrainConfig) -> float | None:
    from gptlab.training.train import train  # heavy imports: after validation

    return train(config)


if __name__ == "__main__":
    main()
