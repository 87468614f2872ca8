"""One file per DVC stage, thin over the library: `run(...)` reads its parameters and calls it.

A file per stage, not one for all: what a stage's file imports is then what that stage depends on, and DVC's `deps` can
be checked against it.
"""
