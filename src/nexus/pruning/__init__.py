"""A smaller model cut out of a bigger one: where it keeps what, what matters, and the cut."""
