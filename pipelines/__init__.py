"""The command line, the DVC stages and the Prefect flows over the library `befa`."""
