"""BeFA, behaviour-driven feature adaptation for multimodal recommendation, and the parts around it.

The library knows nothing of DVC, Prefect or the command line: those live in `pipelines`.
"""
