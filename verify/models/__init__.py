"""Flash attention for a model of your own."""
