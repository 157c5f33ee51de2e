"""What is left of the teacher, how fast it runs, and how sure of it we are."""
