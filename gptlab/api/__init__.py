"""The Python entry: `gptlab.train`, `gptlab.load`, `gptlab.Run` and `gptlab.Model`."""
