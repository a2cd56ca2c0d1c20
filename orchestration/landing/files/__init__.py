"""Files of any format, as rows of items or of the app."""
