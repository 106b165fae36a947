"""The wheel builder: the separately installed package of a Stack, as a published wheel or built once from source."""
