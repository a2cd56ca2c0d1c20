"""The product's earlier database, as items and rows of the app."""
