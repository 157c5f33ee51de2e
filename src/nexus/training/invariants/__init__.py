"""What must hold of any models and data before training, tried out on them."""
