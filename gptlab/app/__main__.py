"""A page to write with models, watch them learn and look inside: `python -m gptlab.app`."""

from gptlab.config.cli import command
from gptlab.config.schema import AppConfig


@command("app")
def main(config: AppConfig) -> None:
    from gptlab.app.main import serve  # heavy imports wait until the configuration is right

    serve(config)


if __name__ == "__main__":
    main()
