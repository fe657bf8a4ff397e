"""Train a GPT: `python train.py`, `python train.py experiment=NAME`, `python train.py --help`."""

from gptlab.training.__main__ import main

if __name__ == "__main__":
    main()
