"""Entry point: `python -m gptlab.report.cards [RUN_FOLDER …]`."""

from gptlab.report.cards.render import main

if __name__ == "__main__":
    main()
