"""What a user would pick instead of the model: scorers behind one small interface."""
