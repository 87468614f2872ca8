"""The commands of `python -m pipelines`. What a command calls is imported when it runs: torch, DVC and Prefect take
seconds to load."""
