"""What is proved on the user's own models and data before the first step."""
