"""One mount, from its start to its end: the only place that knows every room."""
