"""Export: what a fleet serves, described for Kubernetes."""
