# mypy: ignore-errors
from forge_sample._C import launch as launch
