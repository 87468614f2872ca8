"""Tables of results beside the paper's."""
