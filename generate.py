"""Write with a model: `python generate.py prompt="Once upon a time"`."""

from gptlab.commands import GenerateConfig
from gptlab.launcher import command


@command("generate")
def main(config: GenerateConfig) -> None:
    from gptlab.generation.write import write  # heavy imports wait until the configuration is right

    write(config)


if __name__ == "__main__":
    main()
