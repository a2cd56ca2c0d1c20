"""Node side of the browser bundle: pinned packages and the script that computes vectors with TensorFlow.js."""
