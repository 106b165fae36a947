# mypy: ignore-errors
from sample_extension._C import launch as launch
