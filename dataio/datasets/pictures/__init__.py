"""Photo-like images and line sketches of a shape: the query side of the built-in benchmark."""
