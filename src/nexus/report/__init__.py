"""A finished run in words, tables and curves."""
