"""Stage `encode_images@<dataset>-<encoder>`: the image features, encoding only what is new or changed."""
