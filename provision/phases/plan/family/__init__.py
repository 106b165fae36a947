"""What a model is served with: its family, recognised from config.json, and the settings that override the family's choices."""
