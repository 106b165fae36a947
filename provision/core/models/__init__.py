"""Records exchanged between phases: values only, without logic, input or output."""
