"""Serve a web page to generate with models, watch them learn and inspect them."""

from gptlab.config.cli import command
from gptlab.config.schema import AppConfig


@command("app")
def main(config: AppConfig) -> None:
    from gptlab.app.main import serve  # heavy imports wait until the configuration is valid

    serve(config)


if __name__ == "__main__":
    main()
