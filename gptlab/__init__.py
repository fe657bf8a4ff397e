"""Train, inspect and compare small GPT language models."""
