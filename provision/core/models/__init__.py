"""The records that phases hand to one another. Values only: no phase's logic, no input or output."""
