"""A page to write with models, watch them learn and look inside: `python -m gptlab.app`."""

from gptlab.commands import AppConfig
from gptlab.launcher import command


@command("app")
def main(config: AppConfig) -> None:
    from gptlab.app.serve import serve  # heavy imports wait until the configuration is right

    serve(config)


if __name__ == "__main__":
    main()
