"""Generate text with a trained model: `python generate.py prompt="Once upon a time"`."""

from gptlab.generation.__main__ import main

if __name__ == "__main__":
    main()
