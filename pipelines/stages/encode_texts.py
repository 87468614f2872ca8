"""Stage `encode_texts@<dataset>-<encoder>`: the text features, encoding only what is new or changed."""
