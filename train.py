"""Train a GPT: `python train.py`, `python train.py experiment=NAME`, `python train.py --help`."""

from gptlab.commands import TrainConfig
from gptlab.launcher import command


@command("train")
def main(config: TrainConfig) -> None:
    from gptlab.training.run import train  # heavy imports wait until the configuration is right

    train(config)


if __name__ == "__main__":
    main()
