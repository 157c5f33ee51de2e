"""What a run will take, known before anything is loaded."""
